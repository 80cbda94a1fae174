//! The plugin as a value: what `plugin!` declares and the attributes collect, and how the component answers for it.
//!
//! `describe`, `routes` and `migrations` are asked for once, at deploy, without any capability; `handle` once for each
//! request in a fresh instance. Authors never build these types by hand.

use crate::bindings::http_role::exports::wharf::plugin::{descriptor, http};
use crate::bindings::migrations_role::exports::wharf::sql::migrations;
use crate::openapi::{Documentation, Operation, Schemas};
use crate::{Problem, Request, Response};
use std::marker::PhantomData;

/// What a plugin consists of. `plugin!` makes the one there is, `PLUGIN`, which tests take.
#[derive(Debug)]
#[allow(missing_docs, reason = "written by `plugin!`, where each member is documented")]
#[doc(hidden)]
pub struct Plugin {
    pub name: &'static str,
    pub version: &'static str,
    pub summary: &'static str,
    /// Name and summary.
    pub permissions: &'static [(&'static str, &'static str)],
    pub settings: Option<fn() -> String>,
    pub migrations: &'static [Migration],
    pub routes: &'static [Route],
}

/// One SQL file.
#[derive(Debug)]
#[allow(missing_docs, reason = "written by `plugin!`")]
#[doc(hidden)]
pub struct Migration {
    pub name: &'static str,
    pub sql: &'static str,
    /// The earliest migration whose release can run after this one.
    pub oldest: Option<&'static str>,
}

/// One handler with all its attribute says.
#[derive(Debug)]
#[allow(missing_docs, reason = "written by the attributes of handlers")]
#[doc(hidden)]
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub parameters: &'static [&'static str],
    pub access: Access,
    pub name: &'static str,
    pub summary: &'static str,
    pub description: &'static str,
    pub tag: Option<&'static str>,
    /// Called once before the release is served.
    pub smoke: bool,
    pub status: Option<u16>,
    pub cache: Option<CachePolicy>,
    pub describe: fn(&mut Operation<'_>),
    pub call: fn(&mut Request) -> Result<Response, Problem>,
}

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "written by the attributes of handlers")]
#[doc(hidden)]
pub enum Access {
    Public,
    Authenticated,
    Permission(&'static str),
    Superuser,
}

/// How long the host may answer for the handler.
#[derive(Debug)]
#[allow(missing_docs, reason = "written by the attributes of handlers")]
#[doc(hidden)]
pub struct CachePolicy {
    pub ttl_ms: u32,
    pub per_caller: bool,
    pub tags: &'static [&'static str],
}

impl Plugin {
    pub(crate) fn descriptor(&self) -> descriptor::PluginDescriptor {
        let permissions = self
            .permissions
            .iter()
            .map(|(name, summary)| descriptor::Permission { name: (*name).to_owned(), summary: (*summary).to_owned() });
        descriptor::PluginDescriptor {
            name: self.name.to_owned(),
            version: self.version.to_owned(),
            summary: self.summary.to_owned(),
            permissions: permissions.collect(),
            settings_schema: self.settings.map(|schema| schema()),
        }
    }

    /// The routes with their operations and schemas, or what the author has to correct.
    pub(crate) fn api(&self) -> Result<http::Api, Vec<String>> {
        let mut schemas = Schemas::new();
        let routes = self.routes.iter().map(|route| self.route(route, &mut schemas)).collect();
        let schemas = schemas.finish()?;
        Ok(http::Api {
            routes,
            schemas: schemas.into_iter().map(|(name, schema)| (name, schema.to_string())).collect(),
        })
    }

    fn route(&self, route: &Route, schemas: &mut Schemas) -> http::Route {
        let documentation = Documentation {
            name: route.name,
            tag: route.tag.unwrap_or(self.name),
            summary: route.summary,
            description: route.description,
            parameters: route.parameters,
            status: route.status,
            smoke: route.smoke,
        };
        let mut operation = Operation::new(documentation, schemas);
        (route.describe)(&mut operation);
        let operation = operation.finish().to_string();
        http::Route {
            method: route.method.to_owned(),
            path: route.path.to_owned(),
            access: match route.access {
                Access::Public => http::Access::Public,
                Access::Authenticated => http::Access::Authenticated,
                Access::Permission(name) => http::Access::Permission(name.to_owned()),
                Access::Superuser => http::Access::Superuser,
            },
            operation,
            cache: route.cache.as_ref().map(|cache| http::CachePolicy {
                ttl_ms: cache.ttl_ms,
                per_caller: cache.per_caller,
                tags: cache.tags.iter().map(|tag| (*tag).to_owned()).collect(),
            }),
        }
    }

    pub(crate) fn handle(&self, request: http::Request) -> Result<http::Response, Problem> {
        let mut request = Request::new(request);
        let index = usize::try_from(request.route()).unwrap_or(usize::MAX);
        let route =
            self.routes.get(index).ok_or_else(|| Problem::internal("the host named a route that is not here"))?;
        Ok((route.call)(&mut request)?.into_wit(route.status))
    }
}

/// A component's root: how the exports reach the plugin.
#[doc(hidden)]
#[allow(missing_docs, reason = "implemented by `plugin!`")]
pub trait Component {
    const PLUGIN: &'static Plugin;
}

/// The roles that a component exports.
#[derive(Debug)]
#[doc(hidden)]
pub struct Exports<C>(PhantomData<C>);

impl<C: Component> descriptor::Guest for Exports<C> {
    fn describe() -> descriptor::PluginDescriptor {
        C::PLUGIN.descriptor()
    }
}

impl<C: Component> http::Guest for Exports<C> {
    #[allow(clippy::panic, reason = "only at deploy, which must fail and show the author this text")]
    fn routes() -> http::Api {
        match C::PLUGIN.api() {
            Ok(api) => api,
            Err(errors) => panic!("the plugin's routes are not consistent:\n{}", errors.join("\n")),
        }
    }

    fn handle(request: http::Request) -> Result<http::Response, http::Problem> {
        C::PLUGIN.handle(request).map_err(Into::into)
    }
}

impl<C: Component> migrations::Guest for Exports<C> {
    fn migrations() -> Vec<migrations::Migration> {
        let own = |file: &Migration| migrations::Migration {
            name: file.name.to_owned(),
            sql: file.sql.to_owned(),
            oldest: file.oldest.map(str::to_owned),
        };
        C::PLUGIN.migrations.iter().map(own).collect()
    }
}

/// The JSON Schema of a plugin's settings, as `plugin!` asks for it.
#[doc(hidden)]
pub fn settings_schema<T: schemars::JsonSchema>() -> String {
    schemars::schema_for!(T).to_value().to_string()
}

/// Whether a route's permission is one the plugin declares; decided while the plugin compiles.
#[doc(hidden)]
pub const fn permission_is_declared(route: &Route, permissions: &[(&str, &str)]) -> bool {
    let Access::Permission(wanted) = route.access else { return true };
    let mut rest = permissions;
    while let [(name, _), others @ ..] = rest {
        if same(name.as_bytes(), wanted.as_bytes()) {
            return true;
        }
        rest = others;
    }
    false
}

const fn same(mut left: &[u8], mut right: &[u8]) -> bool {
    while let ([first, others @ ..], [second, more @ ..]) = (left, right) {
        if *first != *second {
            return false;
        }
        (left, right) = (others, more);
    }
    left.is_empty() && right.is_empty()
}
