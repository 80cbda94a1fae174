//! Finds the route of a request: takes method and path, returns the target and the raw path parameters. Immutable once
//! built.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::template::Template;

const GET: &str = "GET";
const HEAD: &str = "HEAD";

/// Routes to targets of any type, found by method and path.
#[derive(Debug, Clone)]
pub struct RouteTable<T> {
    router: matchit::Router<Vec<Entry<T>>>,
}

#[derive(Debug, Clone)]
struct Entry<T> {
    method: String,
    /// The parameters: the index of the segment, and the name.
    params: Vec<(usize, Arc<str>)>,
    target: T,
}

/// The result of a lookup.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'t, 'p, T> {
    /// The route, and its path parameters in order, still percent-encoded.
    Route(&'t T, Vec<(&'t Arc<str>, &'p str)>),
    /// The path exists, but only with these other methods. `HEAD` is among them if `GET` is.
    Methods(Vec<&'t str>),
    /// No route has this path.
    Nothing,
}

/// Two routes that match the same requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{method} {path} is already served")]
pub struct Conflict {
    /// The method of both.
    pub method: String,
    /// The template of the later one.
    pub path: String,
}

impl<T: Clone> RouteTable<T> {
    /// Builds the table. The order of the routes does not matter.
    ///
    /// # Errors
    /// Two routes have the same method and shape.
    pub fn build(routes: impl IntoIterator<Item = (String, Template, T)>) -> Result<Self, Conflict> {
        let mut shapes: BTreeMap<String, (Template, Vec<Entry<T>>)> = BTreeMap::new();
        for (method, template, target) in routes {
            let (_, entries) = shapes.entry(template.key()).or_insert_with(|| (template.clone(), Vec::new()));
            if entries.iter().any(|entry| entry.method == method) {
                return Err(Conflict { method, path: template.to_string() });
            }
            let params = template.params().map(|(segment, name)| (segment, Arc::from(name))).collect();
            entries.push(Entry { method, params, target });
        }
        let mut router = matchit::Router::new();
        for (key, (template, entries)) in &shapes {
            // With unique shapes, whole-segment parameters named by position cannot conflict in matchit.
            let method = entries.first().map_or_else(String::new, |entry| entry.method.clone());
            let entries = with_wider_shapes(template, entries, &shapes);
            router.insert(key, entries).map_err(|_| Conflict { method, path: template.to_string() })?;
        }
        Ok(Self { router })
    }

    /// Returns the route of a request. `path` is percent-encoded; one trailing slash is ignored. HEAD has the route of
    /// GET (RFC 9110, section 9.3.2).
    pub fn find<'t, 'p>(&'t self, method: &str, path: &'p str) -> Match<'t, 'p, T> {
        let path = match path.strip_suffix('/') {
            Some("") | None => path,
            Some(stripped) => stripped,
        };
        let Ok(found) = self.router.at(path) else { return Match::Nothing };
        let entries = found.value;
        let method = if method == HEAD { GET } else { method };
        match entries.iter().find(|entry| entry.method == method) {
            Some(entry) => {
                let value = |segment: usize| path.split('/').nth(segment + 1).unwrap_or_default();
                let params = entry.params.iter().map(|(segment, name)| (name, value(*segment))).collect();
                Match::Route(&entry.target, params)
            }
            None => {
                let methods = entries.iter().flat_map(|entry| {
                    let head = Some(HEAD).filter(|_| entry.method == GET);
                    std::iter::once(entry.method.as_str()).chain(head)
                });
                Match::Methods(methods.collect())
            }
        }
    }
}

/// Returns the entries of a shape, and those of wider shapes for its missing methods: `GET /users/{user_id}` handles
/// `GET /users/signup` if only `POST /users/signup` is declared. The narrowest wider shape wins.
fn with_wider_shapes<T: Clone>(
    template: &Template,
    entries: &[Entry<T>],
    shapes: &BTreeMap<String, (Template, Vec<Entry<T>>)>,
) -> Vec<Entry<T>> {
    let mut all = entries.to_vec();
    let mut wider: Vec<_> = shapes.values().filter(|(other, _)| other != template && other.covers(template)).collect();
    wider.sort_by_key(|(other, _)| other.params().count());
    for entry in wider.into_iter().flat_map(|(_, entries)| entries) {
        if !all.iter().any(|known| known.method == entry.method) {
            all.push(entry.clone());
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(routes: &[(&str, &str)]) -> Result<RouteTable<usize>, Conflict> {
        RouteTable::build(
            routes
                .iter()
                .enumerate()
                .map(|(index, (method, path))| ((*method).to_owned(), Template::parse(path).unwrap(), index)),
        )
    }

    #[test]
    fn a_trailing_slash_is_ignored_and_literals_come_before_parameters() {
        let table = table(&[("GET", "/users/{id}"), ("GET", "/users/me"), ("PATCH", "/users/{user_id}")]).unwrap();
        let id: Arc<str> = "id".into();
        let user_id: Arc<str> = "user_id".into();
        assert_eq!(table.find("GET", "/users/me/"), Match::Route(&1, vec![]));
        assert_eq!(table.find("GET", "/users/7"), Match::Route(&0, vec![(&id, "7")]));
        assert_eq!(table.find("PATCH", "/users/7/"), Match::Route(&2, vec![(&user_id, "7")]));
        assert_eq!(table.find("PUT", "/users/7"), Match::Methods(vec!["GET", "HEAD", "PATCH"]));
        assert_eq!(table.find("HEAD", "/users/me"), Match::Route(&1, vec![]), "as GET");
        assert_eq!(
            table.find("PATCH", "/users/me"),
            Match::Route(&2, vec![(&user_id, "me")]),
            "a wider shape handles it"
        );
        assert_eq!(table.find("GET", "/users"), Match::Nothing);
        assert_eq!(table.find("GET", "/users/7//"), Match::Nothing);
    }

    #[test]
    fn head_is_not_allowed_where_get_is_not() {
        let table = table(&[("POST", "/users")]).unwrap();
        assert_eq!(table.find("HEAD", "/users"), Match::Methods(vec!["POST"]));
    }

    #[test]
    fn routes_of_one_shape_conflict_even_with_different_parameter_names() {
        let conflict = table(&[("GET", "/a/{x}"), ("GET", "/a/{y}")]).unwrap_err();
        assert_eq!(conflict.to_string(), "GET /a/{y} is already served");
    }
}
