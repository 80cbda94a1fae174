//! Reads which module file of a crate uses which other, and which crates it names. Owns the module tree and the
//! resolution of paths to the file that defines a name; knows no rule about what is allowed.
//!
//! It sees `use` declarations (braces, renames, globs, re-exports) and paths in code, macros and attributes. It follows
//! a re-export to the definition, so a facade that only re-exports its children depends on none of them. It does not
//! see method calls, whose receiver's type only the compiler knows, nor code that is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, Stmt, UseTree, Visibility};

/// From one file to another, with the names that the first uses of the second.
pub(super) type Edges = BTreeMap<(String, String), BTreeSet<String>>;

/// The result of reading a crate.
#[derive(Debug, Default)]
pub(super) struct Imports {
    /// Between files of the crate.
    pub(super) edges: Edges,
    /// Names that no module of the crate defines, by file: other crates, and the language's own.
    pub(super) external: BTreeMap<String, BTreeSet<String>>,
}

/// The modules of one crate.
struct Tree<'a> {
    sources: &'a BTreeMap<String, String>,
    modules: Vec<Module>,
}

#[derive(Default)]
struct Module {
    file: String,
    parent: usize,
    /// A name may stand for a module and a function at once.
    names: HashMap<String, Vec<Binding>>,
    globs: Vec<Vec<String>>,
    /// Private imports. Each counts as a use, because the compiler warns about one that is not needed.
    imports: Vec<Vec<String>>,
    paths: BTreeSet<Vec<String>>,
}

#[derive(Clone)]
enum Binding {
    Module(usize),
    Type,
    /// A function, constant or macro: nothing is below it.
    Value,
    Import(Vec<String>),
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Module(usize),
    Item(usize, String),
    External(String),
}

/// Reads a crate: the text of each file by its path below `src`, from its root file down.
pub(super) fn read(root: &str, sources: &BTreeMap<String, String>) -> Imports {
    let mut tree = Tree { sources, modules: Vec::new() };
    tree.add_file(root, "", 0);
    // A program next to the library uses it under its own name.
    if root != "main.rs" && sources.contains_key("main.rs") {
        tree.add_file("main.rs", "", 0);
    }
    tree.imports()
}

impl Tree<'_> {
    /// Adds the module of `file`; the files of its children are in `directory`.
    fn add_file(&mut self, file: &str, directory: &str, parent: usize) -> usize {
        let text = self.sources.get(file).unwrap_or_else(|| panic!("{file} is declared and not there"));
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.add(file, directory, parent, &parsed.items)
    }

    fn add(&mut self, file: &str, directory: &str, parent: usize, items: &[Item]) -> usize {
        let index = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        let mut reader = Reader(Module::default());
        for item in items.iter().filter(|item| !is_test(item_attributes(item))) {
            if let Item::Mod(module) = item {
                let name = module.ident.to_string();
                let below = format!("{directory}{name}/");
                let child = match &module.content {
                    Some((_, items)) => self.add(file, &below, index, items),
                    None => self.add_file(&format!("{directory}{name}.rs"), &below, index),
                };
                reader.bind(name, Binding::Module(child));
                continue;
            }
            if let Some((name, binding)) = item_name(item) {
                reader.bind(name.to_string(), binding);
            }
            reader.visit_item(item);
        }
        let module = self.modules.get_mut(index).unwrap();
        *module = Module { file: file.to_owned(), parent, ..reader.0 };
        index
    }

    fn imports(&self) -> Imports {
        let mut found = Imports::default();
        for (index, module) in self.modules.iter().enumerate() {
            for path in module.imports.iter().chain(&module.paths) {
                for target in self.resolve(index, path, &mut BTreeSet::new()) {
                    match target {
                        // The names that are used below it say which file is meant.
                        Target::Module(_) => {}
                        Target::External(name) => {
                            found.external.entry(module.file.clone()).or_default().insert(name);
                        }
                        Target::Item(at, name) => {
                            let to = &self.modules[at].file;
                            if *to != module.file {
                                found.edges.entry((module.file.clone(), to.clone())).or_default().insert(name);
                            }
                        }
                    }
                }
            }
        }
        found
    }

    /// Resolves a path in a module.
    fn resolve(&self, from: usize, path: &[String], seen: &mut BTreeSet<(usize, Vec<String>)>) -> Vec<Target> {
        if !seen.insert((from, path.to_owned())) {
            return Vec::new();
        }
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        match first.as_str() {
            "crate" | "wharf" => self.walk(0, rest, seen),
            "Self" => Vec::new(),
            "self" | "super" => self.walk(from, path, seen),
            name => {
                let found = self.walk(from, path, seen);
                let mut bindings = self.modules[from].names.get(name).into_iter().flatten();
                let begins_elsewhere = |binding: &Binding| match binding {
                    Binding::Module(_) | Binding::Type => false,
                    Binding::Value => true,
                    Binding::Import(import) => import.first().is_some_and(|first| first == name),
                };
                if found.is_empty() && bindings.all(begins_elsewhere) {
                    return vec![Target::External(name.to_owned())];
                }
                found
            }
        }
    }

    /// Resolves a path below a module.
    fn walk(&self, at: usize, path: &[String], seen: &mut BTreeSet<(usize, Vec<String>)>) -> Vec<Target> {
        let Some((name, rest)) = path.split_first() else { return vec![Target::Module(at)] };
        let module = &self.modules[at];
        match name.as_str() {
            "self" => return self.walk(at, rest, seen),
            "super" => return self.walk(module.parent, rest, seen),
            _ => {}
        }
        let mut found = BTreeSet::new();
        for binding in module.names.get(name).into_iter().flatten() {
            match binding {
                Binding::Module(child) => found.extend(self.walk(*child, rest, seen)),
                Binding::Value if !rest.is_empty() => {}
                Binding::Type | Binding::Value => {
                    found.insert(Target::Item(at, name.clone()));
                }
                Binding::Import(import) => {
                    // An import is not resolved by itself: `use name::…::name` begins with another binding or crate.
                    let expanding = (at, [&["use".to_owned()], import.as_slice()].concat());
                    if !seen.insert(expanding.clone()) {
                        continue;
                    }
                    let path = import.iter().chain(rest).cloned().collect::<Vec<_>>();
                    found.extend(self.resolve(at, &path, seen));
                    seen.remove(&expanding);
                }
            }
        }
        if found.is_empty() && !module.names.contains_key(name) {
            // A glob that begins elsewhere is of another crate, and all that it brings is that crate's.
            let begins_here = |glob: &&Vec<String>| {
                let first = glob.first().map_or("", String::as_str);
                matches!(first, "crate" | "wharf" | "self" | "super") || module.names.contains_key(first)
            };
            for glob in module.globs.iter().filter(begins_here) {
                let whole = glob.iter().chain(path).cloned().collect::<Vec<_>>();
                let known = |target: &Target| !matches!(target, Target::External(_));
                found.extend(self.resolve(at, &whole, seen).into_iter().filter(known));
            }
        }
        found.into_iter().collect()
    }
}

/// Collects the imports and paths of one module.
struct Reader(Module);

impl Reader {
    fn bind(&mut self, name: String, binding: Binding) {
        self.0.names.entry(name).or_default().push(binding);
    }

    fn add_use(&mut self, tree: &UseTree, before: &[String], reexport: bool) {
        let with = |name: &syn::Ident| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
        let (path, name) = match tree {
            UseTree::Path(path) => return self.add_use(&path.tree, &with(&path.ident), reexport),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.add_use(tree, before, reexport));
            }
            UseTree::Glob(_) => return self.0.globs.push(before.to_owned()),
            UseTree::Rename(rename) => (with(&rename.ident), rename.rename.to_string()),
            UseTree::Name(name) if name.ident == "self" => {
                (before.to_owned(), before.last().cloned().unwrap_or_default())
            }
            UseTree::Name(name) => (with(&name.ident), name.ident.to_string()),
        };
        if !reexport {
            self.0.imports.push(path.clone());
        }
        self.bind(name, Binding::Import(path));
    }

    /// Collects the paths among tokens that are not parsed.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut colons, mut after_dot) = (0, false);
        for token in tokens {
            match &token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.end_of_path(&mut path);
                    }
                    if !after_dot && (colons == 2) != path.is_empty() {
                        path.push(name.to_string());
                    }
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Group(group) => {
                    self.end_of_path(&mut path);
                    self.scan(group.stream());
                }
                TokenTree::Literal(literal) => {
                    self.end_of_path(&mut path);
                    self.scan_text(&literal.to_string());
                }
                TokenTree::Punct(_) => self.end_of_path(&mut path),
            }
            after_dot = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
            colons = 0;
        }
        self.end_of_path(&mut path);
    }

    /// Collects the path in a string, such as in `#[serde(with = "…")]`.
    fn scan_text(&mut self, literal: &str) {
        let text = literal.trim_matches('"');
        if text.contains("::")
            && let Ok(path) = syn::parse_str::<syn::Path>(text)
        {
            self.visit_path(&path);
        }
    }

    /// Adds a path that is complete. A single word in lower case is dropped: it names a value or an argument.
    fn end_of_path(&mut self, path: &mut Vec<String>) {
        let path = std::mem::take(path);
        if path.len() > 1 || path.first().is_some_and(|name| name.starts_with(char::is_uppercase)) {
            self.0.paths.insert(path);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(item_attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attributes = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !is_test(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        if !matches!(statement, Stmt::Local(local) if is_test(&local.attrs)) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // With a leading `::` the first name is a crate, and one word alone is no path into it.
        if names.len() > 1 || path.leading_colon.is_none() {
            self.0.paths.insert(names);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        visit::visit_macro(self, invoked);
        self.scan(invoked.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if !attribute.path().is_ident("doc") {
            match &attribute.meta {
                syn::Meta::List(list) => self.scan(list.tokens.clone()),
                syn::Meta::NameValue(value) => self.visit_expr(&value.value),
                syn::Meta::Path(_) => {}
            }
        }
    }
}

/// Returns whether code is compiled for tests only: `cfg(test)` or `cfg(all(test, …))`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let condition = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => String::new(),
        };
        condition == "test" || condition.replace(' ', "").starts_with("all(test,")
    })
}

fn item_attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn item_name(item: &Item) -> Option<(&syn::Ident, Binding)> {
    Some(match item {
        Item::Const(item) => (&item.ident, Binding::Value),
        Item::Enum(item) => (&item.ident, Binding::Type),
        Item::Fn(item) => (&item.sig.ident, Binding::Value),
        Item::Macro(item) => (item.ident.as_ref()?, Binding::Value),
        Item::Static(item) => (&item.ident, Binding::Value),
        Item::Struct(item) => (&item.ident, Binding::Type),
        Item::Trait(item) => (&item.ident, Binding::Type),
        Item::Type(item) => (&item.ident, Binding::Type),
        Item::Union(item) => (&item.ident, Binding::Type),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The edges of a crate of these files, each as `from → to: names`.
    fn edges(files: &[(&str, &str)]) -> Vec<String> {
        let sources = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        let names = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join(", ");
        read("lib.rs", &sources)
            .edges
            .into_iter()
            .map(|((from, to), of)| format!("{from} → {to}: {}", names(of)))
            .collect()
    }

    #[test]
    fn an_import_through_super_is_an_edge_to_the_file_that_defines_the_name() {
        let files = [
            ("lib.rs", "mod a;"),
            ("a.rs", "mod b; mod c; use self::b::B; pub struct A(B);"),
            ("a/b.rs", "use super::A; pub struct B(Option<Box<A>>);"),
            ("a/c.rs", "use super::b; fn f(_: b::B) {}"),
        ];
        assert_eq!(edges(&files), ["a.rs → a/b.rs: B", "a/b.rs → a.rs: A", "a/c.rs → a/b.rs: B"]);
    }

    #[test]
    fn braces_renames_globs_and_inline_paths_are_resolved() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "pub struct A; pub struct Other; pub mod inner { pub fn f() {} }"),
            ("b.rs", "use crate::{a::{self, A as Renamed}, c::C}; fn f(_: a::Other) {}"),
            ("c.rs", "use crate::a::*; pub struct C(A);"),
            ("d.rs", "fn f() { crate::a::inner::f(); vec![crate::b::f()]; }"),
            ("e.rs", "#[serde(with = \"crate::a::A\")] struct E;"),
        ];
        assert_eq!(
            edges(&files),
            [
                "b.rs → a.rs: A, Other",
                "b.rs → c.rs: C",
                "c.rs → a.rs: A",
                "d.rs → a.rs: f",
                "d.rs → b.rs: f",
                "e.rs → a.rs: A",
            ]
        );
    }

    #[test]
    fn a_re_export_is_followed_and_is_no_edge_of_the_facade() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "mod inner; pub use inner::A; pub(crate) use inner::Used; fn f(_: Used) {}"),
            ("a/inner.rs", "pub struct A; pub struct Used;"),
            ("b.rs", "use crate::a::A;"),
        ];
        assert_eq!(edges(&files), ["a.rs → a/inner.rs: Used", "b.rs → a/inner.rs: A"]);
    }

    #[test]
    fn an_import_of_the_name_of_its_own_module_is_resolved() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "mod part; pub use self::part::part; use x::y::x; fn f() { part(); x(); }"),
            ("a/part.rs", "pub fn part() {}"),
            ("b.rs", "use crate::a::part; fn f() { part(); }"),
        ];
        assert_eq!(edges(&files), ["a.rs → a/part.rs: part", "b.rs → a/part.rs: part"]);
    }

    #[test]
    fn a_glob_of_another_crate_brings_no_name_of_this_one() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use x::*; use y::z::*; pub struct A(B);"),
            ("b.rs", "pub struct B;"),
        ];
        assert!(edges(&files).is_empty());
    }

    #[test]
    fn code_of_tests_is_no_edge() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; #[cfg(test)] mod tests { use crate::b::B; } #[cfg(test)] use crate::b::B;"),
            ("b.rs", "pub struct B; impl B { #[cfg(test)] fn f(_: crate::a::A) {} }"),
        ];
        assert!(edges(&files).is_empty());
    }

    #[test]
    fn other_crates_are_found_under_their_own_names() {
        let text = "use sqlx::Row as _; fn clap() { clap::Command::new(\"x\"); } #[derive(serde::Serialize)] struct S;";
        let sources = BTreeMap::from([("lib.rs".to_owned(), text.to_owned())]);
        let external = read("lib.rs", &sources).external.remove("lib.rs").unwrap();
        for name in ["sqlx", "clap", "serde"] {
            assert!(external.contains(name), "{name} in {external:?}");
        }
    }
}
