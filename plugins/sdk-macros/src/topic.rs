//! `#[topic]` makes a struct or an enum the payload of a topic. The type itself does not change.

use crate::access::access_level;
use crate::documentation::documentation;
use crate::name::checked_name;
use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::{Data, DeriveInput, Error, Ident, LitStr, Result, Token, parse2};

const FORM: &str = "write `#[topic(\"created\")]`, perhaps with `access = authenticated`";

struct Attribute {
    name: LitStr,
    access: Option<TokenStream>,
}

impl Parse for Attribute {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if !input.peek(LitStr) {
            return Err(input.error(format!("the first argument is the name of the topic, in quotes: {FORM}")));
        }
        let name = checked_name(input.parse()?)?;
        let mut access = None;
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), FORM))?;
            if key != "access" {
                return Err(Error::new(key.span(), format!("unknown key `{key}`: {FORM}")));
            }
            input.parse::<Token![=]>()?;
            if access.replace(access_level(input)?.0).is_some() {
                return Err(Error::new(key.span(), "`access` is given twice"));
            }
        }
        Ok(Self { name, access })
    }
}

pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let Attribute { name, access } = parse2(attribute)?;
    let payload: DeriveInput = parse2(item.clone())
        .map_err(|error| Error::new(error.span(), "`#[topic]` goes on the struct or enum that is the payload"))?;
    let ident = &payload.ident;
    if matches!(payload.data, Data::Union(_)) {
        return Err(Error::new(ident.span(), "`#[topic]` goes on the struct or enum that is the payload"));
    }
    if !payload.generics.params.is_empty() {
        return Err(Error::new(ident.span(), "the payload cannot be generic: a topic has one schema"));
    }
    let (summary, _) = documentation(&payload.attrs);
    let summary = summary.unwrap_or_else(|| ident.to_string());
    let access = match access {
        Some(access) => quote!(::core::option::Option::Some(#access)),
        None => quote!(::core::option::Option::None),
    };
    // An error about a missing derive points to the type.
    let implementation = quote_spanned! { ident.span() =>
        #[automatically_derived]
        impl ::wharf_sdk::events::Topic for #ident {
            const DECLARATION: ::wharf_sdk::__private::TopicDeclaration = ::wharf_sdk::__private::TopicDeclaration {
                name: #name,
                summary: #summary,
                schema: ::wharf_sdk::__private::output_schema::<#ident>,
                access: #access,
            };
        }
    };
    Ok(quote!(#item #implementation))
}
