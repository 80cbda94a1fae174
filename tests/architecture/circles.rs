//! Finds circles between files. Owns the search and the text form of a circle; knows nothing about source text.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::imports::Edges;

/// Returns a shortest circle through each edge that lies on one, written as
/// `a.rs → b.rs → a.rs: names; names`.
pub(super) fn circles(edges: &Edges) -> BTreeSet<String> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        next.entry(from).or_default().push(to);
    }
    let mut found = BTreeSet::new();
    for (from, to) in edges.keys() {
        if let Some(back) = shortest_path(&next, to, from) {
            // `back` begins with `to` and ends with `from`. A circle is written from its first file in order on.
            let first = back.iter().enumerate().min_by_key(|(_, file)| **file).map_or(0, |(index, _)| index);
            let mut files: Vec<&str> = back.iter().cycle().skip(first).take(back.len()).copied().collect();
            files.extend(files.first().copied());
            let names = files.windows(2).map(|pair| {
                let names = &edges[&(pair[0].to_owned(), pair[1].to_owned())];
                names.iter().cloned().collect::<Vec<_>>().join(", ")
            });
            found.insert(format!("{}: {}", files.join(" → "), names.collect::<Vec<_>>().join("; ")));
        }
    }
    found
}

fn shortest_path<'a>(next: &BTreeMap<&'a str, Vec<&'a str>>, from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut path = vec![at];
            while let Some(last) = path.last().copied().filter(|last| *last != from) {
                path.push(before[last]);
            }
            path.reverse();
            return Some(path);
        }
        for file in next.get(at).into_iter().flatten() {
            if !before.contains_key(file) {
                before.insert(file, at);
                queue.push_back(file);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(edges: &[(&str, &str)]) -> Edges {
        edges
            .iter()
            .map(|(from, to)| ((format!("{from}.rs"), format!("{to}.rs")), BTreeSet::from([to.to_uppercase()])))
            .collect()
    }

    #[test]
    fn each_circle_is_written_once_from_its_first_file_on() {
        let edges = graph(&[("b", "c"), ("c", "a"), ("a", "b"), ("c", "d"), ("d", "c"), ("d", "e"), ("x", "a")]);
        let found: Vec<_> = circles(&edges).into_iter().collect();
        assert_eq!(found, ["a.rs → b.rs → c.rs → a.rs: B; C; A", "c.rs → d.rs → c.rs: D; C"]);
    }

    #[test]
    fn a_graph_without_circles_has_none() {
        assert!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    }
}
