//! `plugin!` turns the plugin's declaration into the `PLUGIN` value, the component's exports and a test of consistency.
//!
//! It reads the names of the migration files at compile time. Their texts are embedded with `include_str!`, so a
//! changed file recompiles the crate.

mod migrations;

use crate::name::checked_name;
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Error, Ident, LitStr, Path, Result, Token, Type, braced, bracketed, parse2};

const KEYS: &str = "`plugin!` takes `name`, `summary`, `permissions`, `settings`, `migrations`, `routes`, `topics`, \
    `subscriptions`, `jobs` and `schedules`";

struct Declaration {
    name: LitStr,
    summary: Option<LitStr>,
    permissions: Vec<(LitStr, LitStr)>,
    settings: Option<Type>,
    migrations: Option<LitStr>,
    routes: Vec<Path>,
    topics: Vec<Path>,
    subscriptions: Vec<Path>,
    jobs: Vec<Path>,
    schedules: Vec<Path>,
}

impl Parse for Declaration {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let (mut name, mut summary, mut permissions, mut settings, mut migrations, mut routes) =
            (None, None, None, None, None, None);
        let (mut topics, mut subscriptions, mut jobs, mut schedules) = (None, None, None, None);
        while !input.is_empty() {
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), KEYS))?;
            input.parse::<Token![:]>()?;
            let seen = match key.to_string().as_str() {
                "name" => name.replace(checked_name(input.parse()?)?).is_some(),
                "summary" => summary.replace(input.parse()?).is_some(),
                "permissions" => permissions.replace(permission_list(input)?).is_some(),
                "settings" => settings.replace(input.parse()?).is_some(),
                "migrations" => migrations.replace(input.parse()?).is_some(),
                "routes" => routes.replace(path_list(input)?).is_some(),
                "topics" => topics.replace(path_list(input)?).is_some(),
                "subscriptions" => subscriptions.replace(path_list(input)?).is_some(),
                "jobs" => jobs.replace(path_list(input)?).is_some(),
                "schedules" => schedules.replace(path_list(input)?).is_some(),
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
            topics: topics.unwrap_or_default(),
            subscriptions: subscriptions.unwrap_or_default(),
            jobs: jobs.unwrap_or_default(),
            schedules: schedules.unwrap_or_default(),
        })
    }
}

fn path_list(input: ParseStream<'_>) -> Result<Vec<Path>> {
    let list;
    bracketed!(list in input);
    Ok(Punctuated::<Path, Token![,]>::parse_terminated(&list)?.into_iter().collect())
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

pub(crate) fn expand(input: TokenStream) -> Result<TokenStream> {
    let declaration: Declaration = parse2(input)?;
    let exports = exports(&declaration);
    let Declaration {
        name,
        summary,
        permissions,
        settings,
        migrations,
        routes,
        topics,
        subscriptions,
        jobs,
        schedules,
    } = declaration;
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
    let access_checks = routes.iter().map(|route| {
        quote_spanned! { route.span() =>
            const _: () = ::core::assert!(
                ::wharf_sdk::__private::permission_is_declared(<#route>::ROUTE.access, PLUGIN_PERMISSIONS),
                "this route requires a permission that `permissions` does not declare"
            );
        }
    });
    let topic_checks = topics.iter().map(|topic| {
        quote_spanned! { topic.span() =>
            const _: () = ::core::assert!(
                match <#topic as ::wharf_sdk::events::Topic>::DECLARATION.access {
                    ::core::option::Option::Some(access) => {
                        ::wharf_sdk::__private::permission_is_declared(access, PLUGIN_PERMISSIONS)
                    }
                    ::core::option::Option::None => true,
                },
                "this topic requires a permission that `permissions` does not declare"
            );
        }
    });
    let topics =
        topics.iter().map(|topic| quote_spanned!(topic.span() => <#topic as ::wharf_sdk::events::Topic>::DECLARATION));
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
            topics: &[#(#topics),*],
            subscriptions: &[#(<#subscriptions>::SUBSCRIPTION),*],
            jobs: &[#(<#jobs>::JOB),*],
            schedules: &[#(<#schedules>::SCHEDULE),*],
        };
        const PLUGIN_PERMISSIONS: &[(&str, &str)] = &[#((#permission_names, #permission_texts)),*];
        #(#access_checks)*
        #(#topic_checks)*

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, unsafe_op_in_unsafe_fn, missing_docs, unreachable_pub, clippy::all)]
        const _: () = {
            struct Component;
            impl ::wharf_sdk::__private::Component for Component {
                const PLUGIN: &'static ::wharf_sdk::Plugin = &PLUGIN;
            }
            type Exports = ::wharf_sdk::__private::Exports<Component>;
            ::wharf_sdk::__private::export_http!(Exports with_types_in ::wharf_sdk::__private::http_role);
            #exports

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

/// Exports the roles that the plugin has in addition to that of every plugin.
fn exports(declaration: &Declaration) -> TokenStream {
    let Declaration { migrations, topics, subscriptions, jobs, schedules, .. } = declaration;
    let roles = [
        (migrations.is_some(), "export_migrations", "migrations_role"),
        (!topics.is_empty(), "export_topics", "topics_role"),
        (!subscriptions.is_empty(), "export_subscriber", "subscriber_role"),
        (!jobs.is_empty() || !schedules.is_empty(), "export_worker", "worker_role"),
    ];
    let roles = roles.into_iter().filter(|(has_role, ..)| *has_role).map(|(_, export, role)| {
        let (export, role) = (format_ident!("{export}"), format_ident!("{role}"));
        quote!(::wharf_sdk::__private::#export!(Exports with_types_in ::wharf_sdk::__private::#role);)
    });
    quote!(#(#roles)*)
}
