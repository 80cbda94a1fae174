//! The documentation above an item.

use syn::{Attribute, Expr, Lit, Meta};

/// Returns the first line that is not empty, and the rest.
pub(crate) fn documentation(attributes: &[Attribute]) -> (Option<String>, String) {
    let mut lines = Vec::new();
    for attribute in attributes {
        let Meta::NameValue(pair) = &attribute.meta else { continue };
        let Expr::Lit(literal) = &pair.value else { continue };
        if let (true, Lit::Str(text)) = (pair.path.is_ident("doc"), &literal.lit) {
            lines.push(text.value().trim().to_owned());
        }
    }
    let mut lines = lines.into_iter().skip_while(String::is_empty);
    let summary = lines.next();
    (summary, lines.collect::<Vec<_>>().join("\n").trim().to_owned())
}
