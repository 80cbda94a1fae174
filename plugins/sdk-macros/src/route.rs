//! `#[get]`, `#[post]`, `#[put]`, `#[patch]` and `#[delete]` turn an ordinary function into a route.
//!
//! The function itself does not change. The attribute adds a type of the same name, in the namespace of types, that
//! holds the route. So `routes: [read_items]` in `plugin!` finds it through any module path. The names inside the generated
//! functions begin with `wharf_`: one that the author's function has too would hide it.

mod attribute;
mod path;

use crate::handler::check_is_one;
use attribute::{Attribute, Cache};
use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Error, FnArg, GenericArgument, ItemFn, PathArguments, Result, ReturnType, Type, parse2};

pub(crate) fn expand(method: &'static str, attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let attribute: Attribute = parse2(attribute)?;
    let function: ItemFn = parse2(item)
        .map_err(|error| Error::new(error.span(), format!("`#[{}]` goes on a function", method.to_lowercase())))?;
    check_is_one(&function)?;
    let arguments = arguments(&function)?;
    if attribute.smoke && method != "GET" {
        return Err(Error::new(
            attribute.path.span(),
            "only a `#[get]` can be `smoke`: the host calls it at every deploy",
        ));
    }
    for argument in &arguments {
        check_tuple(argument, &attribute.parameters)?;
    }

    let checks = checks(method, &attribute, &function, &arguments);
    let route = route(method, &attribute, &function, &arguments);
    let vis = &function.vis;
    let ident = &function.sig.ident;
    Ok(quote! {
        #function

        #[allow(non_camel_case_types, missing_docs)]
        #[doc(hidden)]
        #vis enum #ident {}
        impl #ident {
            #[doc(hidden)]
            #vis const ROUTE: ::wharf_sdk::__private::Route = { #checks #route };
        }
    })
}

/// Returns the types of the arguments. Refuses functions that cannot be called for a request.
fn arguments(function: &ItemFn) -> Result<Vec<&Type>> {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        return Err(Error::new(
            token.span(),
            "handlers are synchronous: capability calls block until they are done, and the host runs requests concurrently",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a handler cannot be generic: a route has one type"));
    }
    let mut types = Vec::new();
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(receiver) => {
                return Err(Error::new(receiver.span(), "a handler is a free function, not a method"));
            }
            FnArg::Typed(typed) => match &*typed.ty {
                Type::ImplTrait(ty) => {
                    return Err(Error::new(
                        ty.span(),
                        "name the type: `impl Trait` cannot be extracted from a request",
                    ));
                }
                Type::Reference(ty) => {
                    return Err(Error::new(ty.span(), "handler arguments are owned: take the type without `&`"));
                }
                ty => types.push(ty),
            },
        }
    }
    Ok(types)
}

/// Checks that `Path<(A, B)>` has one element for each parameter of the path.
fn check_tuple(argument: &Type, parameters: &[String]) -> Result<()> {
    let Type::Path(path) = argument else { return Ok(()) };
    let Some(segment) = path.path.segments.last().filter(|segment| segment.ident == "Path") else { return Ok(()) };
    let PathArguments::AngleBracketed(generics) = &segment.arguments else { return Ok(()) };
    let Some(GenericArgument::Type(Type::Tuple(tuple))) = generics.args.first() else { return Ok(()) };
    if tuple.elems.len() == parameters.len() {
        return Ok(());
    }
    let message = format!("the path has {} parameter(s), this tuple has {}", parameters.len(), tuple.elems.len());
    Err(Error::new(tuple.span(), message))
}

/// Generates the checks that depend on the types. They run when the route constant is evaluated, and each points to the
/// author's own tokens.
fn checks(method: &str, attribute: &Attribute, function: &ItemFn, arguments: &[&Type]) -> TokenStream {
    let name = function.sig.ident.to_string();
    let mut checks = TokenStream::new();
    let mut check = |span: Span, condition: TokenStream, message: String| {
        checks.extend(quote_spanned!(span => const _: () = ::core::assert!(#condition, "{}", #message);));
    };
    let needs: Vec<TokenStream> =
        arguments.iter().map(|ty| quote_spanned!(ty.span() => <#ty as ::wharf_sdk::FromRequest>::NEEDS)).collect();

    let path_span = attribute.path.span();
    if attribute.parameters.is_empty() {
        for (need, ty) in needs.iter().zip(arguments) {
            let message =
                format!("`{}` has no parameter in braces that this `Path` could take", attribute.path.value());
            check(ty.span(), quote!(!#need.path), message);
        }
    } else {
        let list = attribute.parameters.iter().map(|name| format!("`{{{name}}}`")).collect::<Vec<_>>().join(", ");
        let message = format!("no argument of `{name}` takes {list} from the path: add a `Path<…>`");
        check(path_span, quote!(false #(|| #needs.path)*), message);
    }
    for (need, ty) in needs.iter().zip(arguments) {
        if method == "GET" || method == "DELETE" {
            check(ty.span(), quote!(!#need.body), format!("a {method} request has no body to read"));
        }
        if attribute.is_public() {
            let message =
                "a public route may be called without a caller: take `Option<Caller>`, or set another `access`"
                    .to_owned();
            check(ty.span(), quote!(!#need.caller), message);
        }
    }
    for (position, (need, ty)) in needs.iter().zip(arguments).enumerate().skip(1) {
        let earlier = needs.iter().take(position);
        let message = "the body can be read only once, and another argument reads it".to_owned();
        check(ty.span(), quote!(!(#need.body && (false #(|| #earlier.body)*))), message);
    }
    checks
}

/// Generates the cache policy. A handler that reads the caller is cached for each caller, unless it says otherwise.
fn cache_policy(cache: &Cache, arguments: &[&Type]) -> TokenStream {
    let Cache { ttl_ms, per_caller, shared, tags } = cache;
    let reads = arguments.iter().map(|ty| quote_spanned!(ty.span() => <#ty as ::wharf_sdk::FromRequest>::READS_CALLER));
    quote! {
        ::wharf_sdk::__private::CachePolicy {
            ttl_ms: #ttl_ms,
            per_caller: !#shared && (#per_caller #(|| #reads)*),
            shared: #shared,
            tags: &[#(#tags),*],
        }
    }
}

fn route(method: &str, attribute: &Attribute, function: &ItemFn, arguments: &[&Type]) -> TokenStream {
    let ident = &function.sig.ident;
    let name = ident.to_string();
    let (summary, description) = attribute::summary_and_description(function);
    let parameters = &attribute.parameters;
    let Attribute { path, access, .. } = attribute;
    let option = |value: Option<TokenStream>| match value {
        Some(value) => quote!(::core::option::Option::Some(#value)),
        None => quote!(::core::option::Option::None),
    };
    let tag = option(attribute.tag.as_ref().map(|tag| quote!(#tag)));
    let smoke = attribute.smoke;
    let status = option(attribute.status.as_ref().map(|status| quote!(#status)));
    let cache = option(attribute.cache.as_ref().map(|cache| cache_policy(cache, arguments)));

    let unit: Type = syn::parse_quote!(());
    let output = match &function.sig.output {
        ReturnType::Default => &unit,
        ReturnType::Type(_, ty) => ty,
    };
    let describe = arguments
        .iter()
        .map(|ty| quote_spanned!(ty.span() => <#ty as ::wharf_sdk::FromRequest>::describe(wharf_operation);));
    let extract = arguments.iter().enumerate().map(|(position, ty)| {
        let binding = format_ident!("wharf_argument_{position}");
        quote_spanned!(ty.span() => let #binding = <#ty as ::wharf_sdk::FromRequest>::from_request(wharf_request)?;)
    });
    let bindings = (0..arguments.len()).map(|position| format_ident!("wharf_argument_{position}"));
    let describe_output =
        quote_spanned!(output.span() => <#output as ::wharf_sdk::IntoResponse>::describe(wharf_operation););
    let respond = quote_spanned!(output.span() => <#output as ::wharf_sdk::IntoResponse>::into_response);
    quote! {
        #[allow(unused_variables)]
        fn wharf_describe(wharf_operation: &mut ::wharf_sdk::openapi::Operation<'_>) {
            #(#describe)*
            #describe_output
        }
        #[allow(unused_variables)]
        fn wharf_call(
            wharf_request: &mut ::wharf_sdk::Request,
        ) -> ::core::result::Result<::wharf_sdk::Response, ::wharf_sdk::Problem> {
            #(#extract)*
            #respond(#ident(#(#bindings),*))
        }
        ::wharf_sdk::__private::Route {
            method: #method,
            path: #path,
            parameters: &[#(#parameters),*],
            access: #access,
            name: #name,
            summary: #summary,
            description: #description,
            tag: #tag,
            smoke: #smoke,
            status: #status,
            cache: #cache,
            describe: wharf_describe,
            call: wharf_call,
        }
    }
}
