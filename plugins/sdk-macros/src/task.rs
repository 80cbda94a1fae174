//! `#[subscribe]`, `#[job]` and `#[schedule]` turn an ordinary function into a handler of events or jobs.
//!
//! As with routes, the function itself does not change. The attribute adds a type of the same name, in the namespace of
//! types, that holds the declaration. The type of a job also enqueues it. The names inside the generated functions begin with
//! `wharf_`: one that the author's function has too would hide it.

mod options;

use crate::handler::check_is_one;
use crate::name::{is_name, name_of};
use options::Options;
use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::parse::{Parse, ParseStream, Parser as _};
use syn::spanned::Spanned;
use syn::{Error, FnArg, ItemFn, LitStr, Result, ReturnType, Token, Type, parse2};

/// The topics of the host. No plugin has the name of one of their sources.
const HOST_TOPICS: [&str; 5] = ["user.created", "user.updated", "user.deleted", "session.revoked", "release.activated"];

/// Expands `#[subscribe("user.deleted", …)]`.
pub(crate) fn expand_subscription(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let Leading { text: topic, options } = Leading::parse_from(attribute, options::SUBSCRIPTION)?;
    check_topic(&topic)?;
    let function = function("subscribe", item)?;
    check_is_one(&function)?;
    let ident = &function.sig.ident;
    let Some(argument) = argument(&function)? else {
        return Err(Error::new(ident.span(), "a subscription takes the event: `event: Event<UserDeleted>`"));
    };
    let retries = options.retries.unwrap_or(10);
    let backoff_ms = options.backoff_ms.unwrap_or(1_000);
    let from_delivery = quote_spanned!(argument.span() =>
        <#argument as ::wharf_sdk::__private::FromDelivery>::from_delivery(wharf_event)?);
    let outcome = output(&function, "EventOutcome");
    let declaration = quote! {
        {
            fn wharf_receive(
                wharf_event: ::wharf_sdk::__private::Delivery,
            ) -> ::core::result::Result<(), ::wharf_sdk::TaskError> {
                #outcome(#ident(#from_delivery))
            }
            ::wharf_sdk::__private::SubscriptionDeclaration {
                topic: #topic,
                retries: #retries,
                backoff_ms: #backoff_ms,
                handle: wharf_receive,
            }
        }
    };
    let holder = holder(&function, "SUBSCRIPTION", "SubscriptionDeclaration", &declaration);
    Ok(quote!(#function #holder))
}

/// Checks the whole name of a topic. One of another plugin may be declared later; those of the host are known.
fn check_topic(topic: &LitStr) -> Result<()> {
    let text = topic.value();
    let Some((source, _)) = text.split_once('.').filter(|(source, name)| is_name(source) && is_name(name)) else {
        return Err(Error::new(
            topic.span(),
            "a topic is written with its source: `user.deleted` of the host, `items.created` of the plugin `items`",
        ));
    };
    let is_of_host = HOST_TOPICS.iter().any(|own| own.split_once('.').is_some_and(|(own, _)| own == source));
    if is_of_host && !HOST_TOPICS.contains(&text.as_str()) {
        return Err(Error::new(topic.span(), format!("the topics of the host are `{}`", HOST_TOPICS.join("`, `"))));
    }
    Ok(())
}

/// Expands `#[job]` and `#[job(retries = 5, …)]`.
pub(crate) fn expand_job(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let JobOptions(options) = parse2(attribute)?;
    let function = function("job", item)?;
    let job = Job::new(&function, options)?;
    let declaration = job.declaration();
    let holder = holder(&function, "JOB", "JobDeclaration", &declaration);
    let enqueue = job.enqueue();
    Ok(quote!(#function #holder #enqueue))
}

/// Expands `#[schedule("0 6 * * *", tz = "Europe/Berlin", …)]`.
pub(crate) fn expand_schedule(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let Leading { text: cron, mut options } = Leading::parse_from(attribute, options::SCHEDULE)?;
    if cron.value().split_whitespace().count() != 5 {
        return Err(Error::new(
            cron.span(),
            "write the five fields minute, hour, day of the month, month and day of the week: `\"0 6 * * *\"`",
        ));
    }
    let time_zone = options.time_zone.take().unwrap_or_else(|| LitStr::new("UTC", cron.span()));
    let missed = match options.once {
        Some(true) => quote!(Once),
        _ => quote!(Skip),
    };
    let function = function("schedule", item)?;
    let job = Job::new(&function, options)?;
    let (name, declaration, payload) = (&job.name, job.declaration(), job.payload());
    // An error about a missing `Default` points to the argument.
    let span = job.argument.map_or_else(|| function.sig.ident.span(), Spanned::span);
    let default = quote_spanned!(span => ::wharf_sdk::__private::default_payload::<#payload>);
    let declaration = quote! {
        ::wharf_sdk::__private::ScheduleDeclaration {
            name: #name,
            cron: #cron,
            time_zone: #time_zone,
            missed: ::wharf_sdk::__private::Missed::#missed,
            payload: #default,
            job: #declaration,
        }
    };
    let holder = holder(&function, "SCHEDULE", "ScheduleDeclaration", &declaration);
    let enqueue = job.enqueue();
    Ok(quote!(#function #holder #enqueue))
}

/// A text in quotes, and options.
struct Leading {
    text: LitStr,
    options: Options,
}

impl Leading {
    fn parse_from(attribute: TokenStream, form: options::Form) -> Result<Self> {
        let parse = |input: ParseStream<'_>| {
            if !input.peek(LitStr) {
                return Err(input.error(format!("the first argument is a text in quotes: {}", form.text)));
            }
            let text = input.parse()?;
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
            Ok(Self { text, options: Options::parse(input, form)? })
        };
        parse.parse2(attribute)
    }
}

struct JobOptions(Options);

impl Parse for JobOptions {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        Options::parse(input, options::JOB).map(Self)
    }
}

/// A job while its tokens are written.
struct Job<'a> {
    function: &'a ItemFn,
    argument: Option<&'a Type>,
    name: LitStr,
    options: Options,
}

impl<'a> Job<'a> {
    fn new(function: &'a ItemFn, mut options: Options) -> Result<Self> {
        for attribute in &function.attrs {
            if attribute.path().is_ident("job") || attribute.path().is_ident("schedule") {
                return Err(Error::new(
                    attribute.path().span(),
                    "`#[schedule]` declares the job as well: write the options of both in it",
                ));
            }
        }
        check_is_one(function)?;
        let name = match options.name.take() {
            Some(name) => name,
            None => name_of(&function.sig.ident)?,
        };
        Ok(Self { function, argument: argument(function)?, name, options })
    }

    /// Returns the type of the payload.
    fn payload(&self) -> TokenStream {
        match self.argument {
            Some(ty) => quote_spanned!(ty.span() => <#ty as ::wharf_sdk::__private::FromTask>::Payload),
            None => quote!(()),
        }
    }

    fn declaration(&self) -> TokenStream {
        let Options { retries, backoff_ms, deadline_ms, concurrency, keep_ms, .. } = &self.options;
        let retries = retries.unwrap_or(5);
        let backoff_ms = backoff_ms.unwrap_or(10_000);
        let deadline_ms = deadline_ms.unwrap_or(60_000);
        let concurrency = concurrency.unwrap_or(1);
        let keep_ms = u64::from(keep_ms.unwrap_or(3_600_000));
        let (name, payload) = (&self.name, self.payload());
        let ident = &self.function.sig.ident;
        let from_task = self
            .argument
            .map(|ty| quote_spanned!(ty.span() => <#ty as ::wharf_sdk::__private::FromTask>::from_task(wharf_task)?));
        let outcome = output(self.function, "JobOutcome");
        quote! {
            {
                #[allow(unused_variables)]
                fn wharf_run(
                    wharf_task: ::wharf_sdk::__private::Task,
                ) -> ::core::result::Result<
                    ::core::option::Option<::std::string::String>,
                    ::wharf_sdk::TaskError,
                > {
                    #outcome(#ident(#from_task))
                }
                ::wharf_sdk::__private::JobDeclaration {
                    name: #name,
                    schema: ::wharf_sdk::__private::input_schema::<#payload>,
                    retries: #retries,
                    backoff_ms: #backoff_ms,
                    deadline_ms: #deadline_ms,
                    concurrency: #concurrency,
                    keep_ms: #keep_ms,
                    run: wharf_run,
                }
            }
        }
    }

    /// Returns the functions that enqueue the job. Without a payload they take none.
    fn enqueue(&self) -> TokenStream {
        let (vis, ident, name) = (&self.function.vis, &self.function.sig.ident, &self.name);
        let (parameter, argument) = match self.argument {
            Some(_) => {
                let payload = self.payload();
                (quote!(payload: &#payload), quote!(payload))
            }
            None => (quote!(), quote!(&())),
        };
        quote! {
            #[allow(dead_code, missing_docs)]
            impl #ident {
                #vis fn enqueue(
                    #parameter
                ) -> ::core::result::Result<::wharf_sdk::Uuid, ::wharf_sdk::jobs::Error> {
                    ::wharf_sdk::__private::new_job(#name, #argument).enqueue()
                }
                #vis fn job(#parameter) -> ::wharf_sdk::jobs::NewJob {
                    ::wharf_sdk::__private::new_job(#name, #argument)
                }
            }
        }
    }
}

fn function(attribute: &str, item: TokenStream) -> Result<ItemFn> {
    parse2(item).map_err(|error| Error::new(error.span(), format!("`#[{attribute}]` goes on a function")))
}

/// Returns the type of the only argument, if there is one. Refuses functions that cannot be called for a task.
fn argument(function: &ItemFn) -> Result<Option<&Type>> {
    let signature = &function.sig;
    if let Some(token) = &signature.asyncness {
        return Err(Error::new(
            token.span(),
            "handlers are synchronous: capability calls block until they are done, and the host runs tasks concurrently",
        ));
    }
    if !signature.generics.params.is_empty() {
        return Err(Error::new(signature.generics.span(), "a handler cannot be generic: a payload has one type"));
    }
    let mut inputs = signature.inputs.iter();
    let argument = match inputs.next() {
        None => None,
        Some(FnArg::Receiver(receiver)) => {
            return Err(Error::new(receiver.span(), "a handler is a free function, not a method"));
        }
        Some(FnArg::Typed(typed)) => match &*typed.ty {
            Type::ImplTrait(ty) => return Err(Error::new(ty.span(), "name the type instead of `impl Trait`")),
            Type::Reference(ty) => {
                return Err(Error::new(ty.span(), "handler arguments are owned: take the type without `&`"));
            }
            ty => Some(ty),
        },
    };
    match inputs.next() {
        Some(second) => Err(Error::new(second.span(), "a handler of events or jobs has one argument")),
        None => Ok(argument),
    }
}

/// Returns the function that converts the result of a handler. An error points to the return type.
fn output(function: &ItemFn, conversion: &str) -> TokenStream {
    let unit: Type = syn::parse_quote!(());
    let output = match &function.sig.output {
        ReturnType::Default => &unit,
        ReturnType::Type(_, ty) => ty,
    };
    let conversion = format_ident!("{conversion}");
    quote_spanned!(output.span() => <#output as ::wharf_sdk::__private::#conversion>::outcome)
}

/// Returns the type that holds the declaration as a constant.
fn holder(function: &ItemFn, constant: &str, ty: &str, value: &TokenStream) -> TokenStream {
    let (vis, ident) = (&function.vis, &function.sig.ident);
    let (constant, ty) = (format_ident!("{constant}"), format_ident!("{ty}"));
    quote! {
        #[allow(non_camel_case_types, missing_docs)]
        #[doc(hidden)]
        #vis enum #ident {}
        impl #ident {
            #[doc(hidden)]
            #vis const #constant: ::wharf_sdk::__private::#ty = #value;
        }
    }
}
