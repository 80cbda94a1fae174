//! Whether the elements of a list differ (`uniqueItems`), in time proportional to their size. The own check of
//! `jsonschema` hashes a list as its elements one after the other, so `[[],[]]` and `[[[]]]` collide, and a client that
//! sends such brackets makes it compare each element with each other one.

use std::collections::HashSet;

use serde_json::{Number, Value};

/// Returns whether no two values are equal as JSON Schema compares them: `1` equals `1.0`, and the order of members does
/// not matter.
pub(super) fn are_unique(list: &[Value]) -> bool {
    let mut seen = HashSet::with_capacity(list.len());
    list.iter().all(|value| {
        let mut form = Vec::new();
        write(value, &mut form);
        seen.insert(form)
    })
}

/// Writes bytes that two values share only if they are equal: each part has its type, and its length before its content.
fn write(value: &Value, form: &mut Vec<u8>) {
    match value {
        Value::Null => form.push(b'n'),
        Value::Bool(is_true) => form.push(if *is_true { b't' } else { b'f' }),
        Value::Number(number) => write_number(number, form),
        Value::String(text) => write_text(b's', text, form),
        Value::Array(list) => {
            write_length(b'[', list.len(), form);
            list.iter().for_each(|each| write(each, form));
        }
        Value::Object(object) => {
            write_length(b'{', object.len(), form);
            let mut members: Vec<_> = object.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            for (name, each) in members {
                write_text(b'k', name, form);
                write(each, form);
            }
        }
    }
}

/// Writes a whole number as such, whatever its notation, and any other by the bits of its float.
fn write_number(number: &Number, form: &mut Vec<u8>) {
    let whole = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    let float = number.as_f64().unwrap_or_default();
    match whole.or_else(|| whole_of(float)) {
        Some(whole) => {
            form.push(b'i');
            form.extend_from_slice(&whole.to_be_bytes());
        }
        None => {
            form.push(b'd');
            form.extend_from_slice(&float.to_bits().to_be_bytes());
        }
    }
}

/// Returns the whole number that a float is, if it can equal an integer of 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn whole_of(float: f64) -> Option<i128> {
    const RANGE: f64 = 18_446_744_073_709_551_616.0;
    (float.fract() == 0.0 && (-RANGE..=RANGE).contains(&float)).then_some(float as i128)
}

fn write_text(kind: u8, text: &str, form: &mut Vec<u8>) {
    write_length(kind, text.len(), form);
    form.extend_from_slice(text.as_bytes());
}

fn write_length(kind: u8, length: usize, form: &mut Vec<u8>) {
    form.push(kind);
    form.extend_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::clock::thread_nanos;

    #[test]
    fn values_are_equal_as_json_schema_compares_them() {
        for (list, expected) in [
            (json!([]), true),
            (json!([1, "1", true, null, [1], {"1": 1}, 1.5]), true),
            (json!([1, 1.0]), false),
            (json!([0, -0.0]), false),
            (json!([1e19, 10_000_000_000_000_000_000_u64]), false),
            (json!([9_007_199_254_740_993_i64, 9_007_199_254_740_992_i64]), true),
            (json!([1e300, 1e301, -1e300]), true),
            (json!([{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]), false),
            (json!([{"a": {"b": 1}}, {"a": {}, "b": 1}]), true),
            (json!([["a", "b"], ["ab"], ["a", ["b"]], "ab"]), true),
            (json!([[], [[]], [[], []], [[[]]], [[], [[]]], [[[]], []]]), true),
            (json!([[[], [[]]], [[], [[]]]]), false),
        ] {
            assert_eq!(are_unique(list.as_array().unwrap()), expected, "{list}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            (-3_i32..3).prop_map(|whole| json!(f64::from(whole) / 2.0)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inside| {
            prop_oneof![
                prop::collection::vec(inside.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[ab]", inside), 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_result_is_that_of_comparing_each_with_each(list in prop::collection::vec(value(), 0..8)) {
            let equal = |(index, one): (usize, &Value)| {
                list[index + 1..].iter().any(|other| jsonschema::json::cmp::equal(one, other))
            };
            prop_assert_eq!(are_unique(&list), !list.iter().enumerate().any(equal));
        }
    }

    /// Returns the different lists of `pairs` pairs of brackets.
    fn brackets(pairs: usize) -> Vec<Value> {
        let Some(inner) = pairs.checked_sub(1) else { return Vec::new() };
        let mut forests: Vec<Vec<Vec<Value>>> = vec![vec![Vec::new()]];
        for size in 1..=inner {
            let mut forest = Vec::new();
            for first in 0..size {
                for one in &forests[first] {
                    for rest in &forests[size - 1 - first] {
                        forest.push(std::iter::once(json!(one)).chain(rest.iter().cloned()).collect());
                    }
                }
            }
            forests.push(forest);
        }
        forests[inner].iter().map(|forest| json!(forest)).collect()
    }

    /// Comparing each pair would take a hundred times the time.
    #[test]
    fn ten_times_the_brackets_take_at_most_sixty_times_the_time_of_the_processor() {
        let all = brackets(11);
        assert!(all.len() > 16_000, "{}", all.len());
        let time = |list: &[Value]| {
            let once = || {
                let began = thread_nanos();
                assert!(are_unique(list));
                thread_nanos() - began
            };
            (0..3).map(|_| once()).min().unwrap()
        };
        let (few, many) = (time(&all[..1_600]), time(&all[..16_000]));
        assert!(many < few * 60, "{few} and {many} ns");
    }
}
