//! Parses the attribute of a route (path, access, cache policy, status) and the documentation above its function.

use crate::access::access_level;
use crate::documentation::documentation;
use crate::duration::milliseconds;
use proc_macro2::TokenStream;
use quote::quote;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Error, Ident, ItemFn, LitInt, LitStr, Result, Token, bracketed, parenthesized};

const KEYS: &str = "a route takes `access`, `tag`, `status`, `cache(…)` and `smoke`";

pub(crate) struct Attribute {
    pub(crate) path: LitStr,
    /// The names of the path's parameters, in order.
    pub(crate) parameters: Vec<String>,
    pub(crate) access: TokenStream,
    pub(crate) tag: Option<LitStr>,
    pub(crate) status: Option<LitInt>,
    pub(crate) cache: Option<Cache>,
    pub(crate) smoke: bool,
    public: bool,
}

/// A cache policy.
pub(crate) struct Cache {
    pub(crate) ttl_ms: u32,
    pub(crate) per_caller: bool,
    pub(crate) shared: bool,
    pub(crate) tags: Vec<LitStr>,
}

impl Attribute {
    pub(crate) fn is_public(&self) -> bool {
        self.public
    }
}

impl Parse for Attribute {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        if !input.peek(LitStr) {
            return Err(input.error("the first argument is the path, in quotes: `\"/\"` or `\"/{id}\"`"));
        }
        let path: LitStr = input.parse()?;
        let parameters = super::path::parameters(&path)?;
        let (mut access, mut tag, mut status, mut cache, mut smoke, mut public) =
            (None, None, None, None, false, false);
        while !input.is_empty() {
            input.parse::<Token![,]>()?;
            if input.is_empty() {
                break;
            }
            let key: Ident = input.parse().map_err(|error| Error::new(error.span(), KEYS))?;
            let seen = match key.to_string().as_str() {
                "access" => {
                    input.parse::<Token![=]>()?;
                    let (tokens, is_public) = access_level(input)?;
                    public = is_public;
                    access.replace(tokens).is_some()
                }
                "tag" => {
                    input.parse::<Token![=]>()?;
                    tag.replace(input.parse()?).is_some()
                }
                "status" => {
                    input.parse::<Token![=]>()?;
                    status.replace(success_status(input.parse()?)?).is_some()
                }
                "cache" => cache.replace(cache_policy(&key, input)?).is_some(),
                "smoke" if !parameters.is_empty() => {
                    return Err(Error::new(key.span(), "a smoke call has no values for the parameters of the path"));
                }
                "smoke" => std::mem::replace(&mut smoke, true),
                other => return Err(Error::new(key.span(), format!("unknown key `{other}`: {KEYS}"))),
            };
            if seen {
                return Err(Error::new(key.span(), format!("`{key}` is given twice")));
            }
        }
        let access = access.unwrap_or_else(|| quote!(::wharf_sdk::__private::Access::Authenticated));
        Ok(Self { path, parameters, access, tag, status, cache, smoke, public })
    }
}

fn success_status(status: LitInt) -> Result<LitInt> {
    match status.base10_parse::<u16>() {
        Ok(200..=299) => Ok(status),
        _ => Err(Error::new(
            status.span(),
            "`status` is the status of success, 200 to 299; other responses are `Problem`s",
        )),
    }
}

fn cache_policy(key: &Ident, input: ParseStream<'_>) -> Result<Cache> {
    const FORM: &str = "write `cache(ttl = \"10s\", tags = [\"…\"])`, perhaps with `per_caller` or `shared`";
    if !input.peek(syn::token::Paren) {
        return Err(Error::new(key.span(), FORM));
    }
    let content;
    parenthesized!(content in input);
    let (mut ttl, mut per_caller, mut shared, mut tags) = (None, false, false, Vec::new());
    while !content.is_empty() {
        let key: Ident = content.parse().map_err(|error| Error::new(error.span(), FORM))?;
        match key.to_string().as_str() {
            "ttl" => {
                content.parse::<Token![=]>()?;
                ttl = Some(milliseconds(&content.parse()?)?);
            }
            "per_caller" | "shared" if per_caller || shared => {
                return Err(Error::new(key.span(), "a response is cached for one caller or for all: write one word"));
            }
            "per_caller" => per_caller = true,
            "shared" => shared = true,
            "tags" => {
                content.parse::<Token![=]>()?;
                let list;
                bracketed!(list in content);
                tags = Punctuated::<LitStr, Token![,]>::parse_terminated(&list)?.into_iter().collect();
            }
            other => return Err(Error::new(key.span(), format!("unknown key `{other}`: {FORM}"))),
        }
        if !content.is_empty() {
            content.parse::<Token![,]>()?;
        }
    }
    let ttl_ms = ttl.ok_or_else(|| Error::new(key.span(), "a cached response needs a lifetime: `ttl = \"10s\"`"))?;
    Ok(Cache { ttl_ms, per_caller, shared, tags })
}

/// Returns summary and description. The first line of the documentation is the summary, the rest is the description.
/// Without documentation, the summary of `read_items` is `Read Items`.
pub(crate) fn summary_and_description(function: &ItemFn) -> (String, String) {
    let (summary, description) = documentation(&function.attrs);
    (summary.unwrap_or_else(|| title(&function.sig.ident.to_string())), description)
}

fn title(name: &str) -> String {
    let capitalise = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
    };
    name.split('_').map(capitalise).collect::<Vec<_>>().join(" ")
}
