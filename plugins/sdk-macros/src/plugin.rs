//! `plugin!` turns the plugin's declaration into the `PLUGIN` value, the component's exports and a test of consistency.
//!
//! It reads the names of the migration files at compile time. Their texts are embedded with `include_str!`, so a
//! changed file recompiles the crate.

mod migrations;

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Ident, LitStr, Path, Result, Token, Type, braced, bracketed, parse2};

const KEYS: &str = "`plugin!` takes `name`, `summary`, `permissions`, `settings`, `migrations` and `routes`";

struct Declaration {
    name: LitStr,
    summary: Option<LitStr>,
    permissions: Vec<(LitStr, LitStr)>,
    settings: Option<Type>,
    migrations: Option<LitStr>,
    routes: Vec<Path>,
}

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut name, mut summary, mut permissions, mut settings, mut migrations, mut routes) =
            (None, None, None, None, None, None);
        while !input.is_empty() {
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), KEYS))?;
            input.parse::<Token![:]>()?;
            let seen = match key.to_string().as_str() {
                "name" => name.replace(checked_name(input.parse()?)?).is_some(),
                "summary" => summary.replace(input.parse()?).is_some(),
                "permissions" => permissions.replace(permission_list(input)?).is_some(),
                "settings" => settings.replace(input.parse()?).is_some(),
                "migrations" => migrations.replace(input.parse()?).is_some(),
                "routes" => {
                    let list;
                    bracketed!(list in input);
                    let paths = Punctuated::<Path, Token![,]>::parse_terminated(&list)?;
                    routes.replace(paths.into_iter().collect()).is_some()
                }
                other => return Err(Error::new(key.span(), format!("unknown key `{other}`: {KEYS}"))),
            };
            if seen {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        let missing = |what: &str| Error::new(Span::call_site(), format!("`plugin!` needs {what}"));
        Ok(Self {
            name: name.ok_or_else(|| missing("a `name: \"…\"`"))?,
            summary,
            permissions: permissions.unwrap_or_default(),
            settings,
            migrations,
            routes: routes.ok_or_else(|| missing("its handlers: `routes: [read_items, …]`"))?,
        })
    }
}

fn permission_list(input: ParseStream<'_>) -> Result<Vec<(LitStr, LitStr)>> {
    let list;
    braced!(list in input);
    let mut permissions = Vec::new();
    while !list.is_empty() {
        let name = checked_name(list.parse()?)?;
        list.parse::<Token![:]>()?;
        permissions.push((name, list.parse()?));
        if !list.is_empty() {
            list.parse::<Token![,]>()?;
        }
    }
    Ok(permissions)
}

/// Checks the name of a plugin or a permission: `[a-z][a-z0-9-]{0,39}`.
fn checked_name(name: LitStr) -> Result<LitStr> {
    let text = name.value();
    let valid = text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= 40
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if valid {
        return Ok(name);
    }
    Err(Error::new(
        name.span(),
        "a name is a lower-case letter followed by up to 39 lower-case letters, digits and `-`",
    ))
}

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let Declaration { name, summary, permissions, settings, migrations, routes } = parse2(input)?;
    let summary = summary.map_or_else(|| quote!(::core::env!("CARGO_PKG_DESCRIPTION")), |text| quote!(#text));
    let (permission_names, permission_texts): (Vec<_>, Vec<_>) = permissions.into_iter().unzip();
    let settings = match &settings {
        Some(ty) => quote_spanned!(ty.span() =>
            ::core::option::Option::Some(::wharf_sdk::__private::settings_schema::<#ty>)),
        None => quote!(::core::option::Option::None),
    };
    let files = migrations.as_ref().map(migrations::embed).transpose()?.unwrap_or_default();
    let directory = match &migrations {
        Some(text) => quote!(::core::option::Option::Some(#text)),
        None => quote!(::core::option::Option::None),
    };
    let export_migrations = migrations.as_ref().map(|_| {
        quote!(::wharf_sdk::__private::export_migrations!(
            Exports with_types_in ::wharf_sdk::__private::migrations_role
        );)
    });
    let permission_checks = routes.iter().map(|route| {
        quote_spanned! { route.span() =>
            const _: () = ::core::assert!(
                ::wharf_sdk::__private::permission_is_declared(&<#route>::ROUTE, PLUGIN_PERMISSIONS),
                "this route requires a permission that `permissions` does not declare"
            );
        }
    });
    Ok(quote! {
        /// The plugin: its declarations and handlers. The component exports it, and tests use it.
        pub static PLUGIN: ::wharf_sdk::Plugin = ::wharf_sdk::Plugin {
            name: #name,
            version: ::core::env!("CARGO_PKG_VERSION"),
            summary: #summary,
            permissions: PLUGIN_PERMISSIONS,
            settings: #settings,
            migrations: &[#(#files),*],
            routes: &[#(<#routes>::ROUTE),*],
        };
        const PLUGIN_PERMISSIONS: &[(&str, &str)] = &[#((#permission_names, #permission_texts)),*];
        #(#permission_checks)*

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, unsafe_op_in_unsafe_fn, missing_docs, unreachable_pub, clippy::all)]
        const _: () = {
            struct Component;
            impl ::wharf_sdk::__private::Component for Component {
                const PLUGIN: &'static ::wharf_sdk::Plugin = &PLUGIN;
            }
            type Exports = ::wharf_sdk::__private::Exports<Component>;
            ::wharf_sdk::__private::export_http!(Exports with_types_in ::wharf_sdk::__private::http_role);
            #export_migrations

            #[global_allocator]
            static ARENA: ::wharf_sdk::__private::Arena = ::wharf_sdk::__private::Arena::new();
            ::wharf_sdk::__private::export_cabi_realloc!();
        };

        #[cfg(all(test, not(target_arch = "wasm32")))]
        #[test]
        fn plugin_is_consistent() {
            ::wharf_sdk::testing::check(&PLUGIN);
            ::wharf_sdk::testing::check_migrations(&PLUGIN, ::core::env!("CARGO_MANIFEST_DIR"), #directory);
        }
    })
}
