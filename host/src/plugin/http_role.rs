//! The role of a component that handles requests. Owns the check that its function has the type of the bindings: once, when
//! the component is linked. (The bindings check the type of every function of the interface for each instance.)

use wasmtime::Store;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, TypedFunc};
use wasmtime::error::Context as _;

use super::artifact::HTTP;
use super::interface::handle::exports::wharf::plugin::http::{Problem, Request, Response};
use crate::capability::Guest;

type Parameters<'a> = (Request<'a>,);
type Results = (Result<Response, Problem>,);

/// The function `handle` of a linked component.
pub(super) struct HttpRole {
    component: InstancePre<Guest>,
    handle: ComponentExportIndex,
}

impl HttpRole {
    /// Looks for the function and checks its type.
    ///
    /// # Errors
    /// The component does not export it, or it has another type.
    pub(super) fn new(linked: InstancePre<Guest>) -> wasmtime::Result<Self> {
        let component = linked.component();
        let role = component.get_export_index(None, HTTP);
        let found = role.and_then(|role| component.get_export(Some(&role), "handle"));
        let Some((ComponentItem::ComponentFunc(function), handle)) = found else {
            return Err(wasmtime::Error::msg(format!("{HTTP} has no function `handle`")));
        };
        let checked = function.typecheck::<Parameters<'_>, Results>(&linked.instance_type());
        checked.context("the type of the function `handle`")?;
        Ok(Self { component: linked, handle })
    }

    /// Creates an instance.
    ///
    /// # Errors
    /// The instance pool is full, or the guest hits a limit or traps while it starts.
    pub(super) async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<Instance> {
        self.component.instantiate_async(store).await
    }

    /// Handles a request in an instance of this component.
    ///
    /// # Errors
    /// The guest traps or hits a limit.
    #[allow(unsafe_code, reason = "the type was checked when the component was linked")]
    pub(super) async fn call(
        &self,
        store: &mut Store<Guest>,
        instance: Instance,
        request: Request<'_>,
    ) -> wasmtime::Result<Result<Response, Problem>> {
        let function = instance.get_func(&mut *store, self.handle);
        let function = function.ok_or_else(|| wasmtime::Error::msg("the instance is of another component"))?;
        // SAFETY: the index belongs to one component, and it finds a function only in an instance of that component. The
        // type of an export is that of the component, and `new` has checked it.
        let function = unsafe { TypedFunc::<Parameters<'_>, Results>::new_unchecked(function) };
        let (response,) = function.call_async(store, (request,)).await?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use wasmtime::Engine;
    use wasmtime::component::{Component, Linker};

    use super::*;

    /// Links a component whose role has these functions, all without parameters and results. Returns why it is refused.
    fn refusal(functions: &[&str]) -> String {
        let exports: String = functions.iter().map(|name| format!(r#"(export "{name}" (func $f))"#)).collect();
        let text = format!(
            r#"(component
                (core module $m (func (export "f")))
                (core instance $i (instantiate $m))
                (func $f (canon lift (core func $i "f")))
                (instance $http {exports})
                (export "{HTTP}" (instance $http)))"#
        );
        let engine = Engine::default();
        let component = Component::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let linked = Linker::new(&engine).instantiate_pre(&component).unwrap();
        format!("{:#}", HttpRole::new(linked).err().unwrap())
    }

    /// A deploy calls `routes` first, so its tests see the refusal of the bindings. After an upgrade of the host, nothing but
    /// this check stands between a stored release and a call with other types than the compiled function has.
    #[test]
    fn a_function_of_another_type_is_refused_before_any_call() {
        let refusal = refusal(&["routes", "handle"]);
        assert!(refusal.starts_with("the type of the function `handle`: "), "{refusal}");
    }

    #[test]
    fn a_role_without_the_function_is_refused() {
        assert_eq!(refusal(&["routes"]), format!("{HTTP} has no function `handle`"));
    }
}
