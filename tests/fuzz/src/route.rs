//! The route table, compared with a naive one. The input is text: routes (`GET /items/{id}`), an empty line, requests.
//!
//! Properties: a template is unchanged when it is written and parsed again. A table can be built unless two routes have
//! the same method and shape, in any order. Each request finds the same route and parameters as a search through all
//! routes. If several shapes match a path, the one with the earliest literal wins; a method that it lacks is served by
//! shapes that cover it, those with fewer parameters first.

use wharf::route::{Match, RouteTable, Template};

use crate::input::{lines, words};

/// A naive template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Literal(String),
    Param,
}

struct Route {
    method: String,
    template: Template,
    parts: Vec<Part>,
    names: Vec<String>,
}

impl Route {
    fn read(line: &str) -> Option<Self> {
        let [method, path] = words(line);
        let template = read_template(path)?;
        // No route can be declared for HEAD: it has the route of GET.
        if method == "HEAD" {
            return None;
        }
        let mut names = Vec::new();
        let parts = segments(&template.to_string())
            .into_iter()
            .map(|segment| match segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) {
                Some(name) => {
                    names.push(name.to_owned());
                    Part::Param
                }
                None => Part::Literal(segment.to_owned()),
            })
            .collect();
        Some(Self { method: method.to_owned(), template, parts, names })
    }

    fn fits(&self, path: &[&str]) -> bool {
        self.parts.len() == path.len()
            && self.parts.iter().zip(path).all(|(part, segment)| match part {
                Part::Literal(text) => text == segment,
                Part::Param => !segment.is_empty(),
            })
    }

    fn covers(&self, parts: &[Part]) -> bool {
        self.parts.len() == parts.len()
            && self.parts.iter().zip(parts).all(|(own, other)| *own == Part::Param || own == other)
    }

    fn params(&self) -> usize {
        self.names.len()
    }
}

/// `/` alone has no segments.
fn segments(path: &str) -> Vec<&str> {
    match path {
        "/" => Vec::new(),
        _ => path.strip_prefix('/').unwrap_or(path).split('/').collect(),
    }
}

fn read_template(path: &str) -> Option<Template> {
    match path.parse::<Template>() {
        Ok(template) => {
            let written = template.to_string();
            let slashless = if path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) };
            assert!(written == slashless || (path == "//" && written == "/"), "{path:?} became {written:?}");
            assert_eq!(written.parse::<Template>().as_ref(), Ok(&template));
            assert_eq!(template.depth(), segments(&written).len());
            assert_eq!(template.is_literal(), !written.contains('{'));
            assert!(template.is_within(&template) && template.is_within(&template.root()));
            assert!(template.below(&template).is_within(&template));
            Some(template)
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// The result of a lookup: the route's index and parameters, or the allowed methods.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Route(usize, Vec<(String, String)>),
    Methods(Vec<String>),
    Nothing,
}

fn naive(routes: &[Route], method: &str, path: &str) -> Found {
    let path = match path.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => path,
    };
    if !path.starts_with('/') {
        return Found::Nothing;
    }
    let method = if method == "HEAD" { "GET" } else { method };
    let path = segments(path);
    let fitting: Vec<usize> = (0..routes.len()).filter(|at| routes[*at].fits(&path)).collect();
    // A literal is less than a parameter, so the least shape has a literal where another one has a parameter first.
    let Some(parts) = fitting.iter().map(|at| &routes[*at].parts).min() else { return Found::Nothing };
    let mut answering: Vec<usize> = fitting.iter().copied().filter(|at| routes[*at].covers(parts)).collect();
    answering.sort_by_key(|at| routes[*at].params());
    let with_method: Vec<usize> = answering.iter().copied().filter(|at| routes[*at].method == method).collect();
    let Some(first) = with_method.first() else {
        let mut methods: Vec<String> = answering.iter().map(|at| routes[*at].method.clone()).collect();
        if methods.iter().any(|method| method == "GET") {
            methods.push("HEAD".to_owned());
        }
        methods.sort();
        methods.dedup();
        return Found::Methods(methods);
    };
    // Equally specific routes are interchangeable: `check` accepts each of them.
    let route = &routes[*first];
    let values = route.parts.iter().zip(&path).filter(|(part, _)| **part == Part::Param);
    Found::Route(*first, route.names.iter().cloned().zip(values.map(|(_, text)| (*text).to_owned())).collect())
}

fn find(table: &RouteTable<usize>, method: &str, path: &str) -> Found {
    match table.find(method, path) {
        Match::Route(at, params) => {
            Found::Route(*at, params.into_iter().map(|(name, value)| (name.to_string(), value.to_owned())).collect())
        }
        Match::Methods(methods) => {
            let mut methods: Vec<String> = methods.into_iter().map(str::to_owned).collect();
            methods.sort();
            Found::Methods(methods)
        }
        Match::Nothing => Found::Nothing,
    }
}

/// Checks one table.
pub fn check(data: &[u8]) {
    let lines = lines(data);
    let mut parts = lines.splitn(2, String::is_empty);
    let routes: Vec<Route> =
        parts.next().unwrap_or_default().iter().take(64).filter_map(|line| Route::read(line)).collect();
    let requests = parts.next().unwrap_or_default();

    let twice = (0..routes.len())
        .any(|at| routes[..at].iter().any(|it| it.method == routes[at].method && it.parts == routes[at].parts));
    let declared = || routes.iter().map(|route| (route.method.clone(), route.template.clone()));
    let table = RouteTable::build(declared().zip(0..).map(|((method, template), at)| (method, template, at)));
    let mut backwards: Vec<_> = declared().zip(0..).map(|((method, template), at)| (method, template, at)).collect();
    backwards.reverse();
    let backwards = RouteTable::build(backwards);
    assert_eq!((table.is_err(), backwards.is_err()), (twice, twice), "{:?} {:?}", table.err(), backwards.err());
    let (Ok(table), Ok(backwards)) = (table, backwards) else { return };

    for request in requests.iter().take(64) {
        let [method, path] = words(request);
        let found = find(&table, method, path);
        assert_eq!(found, find(&backwards, method, path), "the order of the routes makes a difference: {request:?}");
        let expected = naive(&routes, method, path);
        match (&found, &expected) {
            (Found::Route(at, _), Found::Route(expected, _)) if at != expected => {
                let (at, expected) = (&routes[*at], &routes[*expected]);
                let equal = at.params() == expected.params()
                    && at.method == if method == "HEAD" { "GET" } else { method }
                    && at.fits(&segments(path.strip_suffix('/').unwrap_or(path)));
                assert!(equal, "{request:?} finds {} and not {}", at.template, expected.template);
            }
            _ => assert_eq!(found, expected, "{request:?}"),
        }
    }
}
