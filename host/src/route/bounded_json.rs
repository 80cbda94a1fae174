//! The JSON of a request as a validator sees it: with a budget. A plugin declares the schema and a client sends the
//! value, and together they can ask for more work than either is worth (references that apply to themselves, a thousand
//! errors in each element). Each look at a part of the value costs a step. When the steps are used up, the value
//! appears to be empty, so that the validator ends at once. The steps grow with the size of the value, and the memory of
//! the errors is bounded, because a validator collects all of them before it returns the first.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::ControlFlow;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object, cmp};
use serde_json::{Map, Number, Value};

use super::unique;

/// Steps for any value.
const BASE_STEPS: u64 = 500_000;
/// Further steps for each value inside, with itself. An object needs some for each property that its schema requires.
const STEPS_PER_VALUE: u64 = 200;
/// Bytes of a text that one step reads. Each text also adds a step for each byte, so that it can be read several times.
const BYTES_PER_STEP: u64 = 8;
/// The work of a pattern that one step pays for, as bytes of text times bytes of the compiled pattern. In the worst case
/// a pattern looks at each of its states for each byte, which takes about 2 µs for this product.
const PATTERN_WORK_PER_STEP: u64 = 4096;
/// The maximum memory of all errors of one value. Each has a copy of its path. The response reports fewer.
const MAX_ERROR_BYTES: usize = 16 << 20;
/// The memory of one error without its path and what it copies ([`ErrorSize`]).
const ERROR_BYTES: usize = 320;
/// The part of a path that is an index, with its separator.
const INDEX_BYTES: usize = 8;
/// The maximum depth at which a validator looks into a value. It calls itself for each level.
const MAX_DEPTH: u8 = 64;

/// The memory of a JSON value, and of the name of a member, without their texts.
const VALUE_BYTES: usize = 48;

/// The representation; see the module.
pub(super) struct BoundedJson;

/// The size that each error of a validator can copy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ErrorSize {
    /// Bytes of the schema: a pattern, the name of a required member, or the whole schema below `not`.
    pub(super) schema: usize,
    /// Bytes of the longest path in the schemas. An error has the path of each reference that led to it.
    pub(super) path: usize,
    /// Whether it can have the names of all members of an object.
    pub(super) names: bool,
    /// Whether it can have the texts of all elements of a list.
    pub(super) elements: bool,
}

impl ErrorSize {
    fn of_error_about(&self, value: &Value, depth: u8) -> usize {
        let copied = match value {
            any if self.elements => memory_of(any),
            Value::Object(object) if self.names => object.keys().map(|name| VALUE_BYTES + name.len()).sum(),
            _ => 0,
        };
        let paths = self.path.saturating_mul(usize::from(depth) + 1);
        ERROR_BYTES.saturating_add(self.schema).saturating_add(paths).saturating_add(copied)
    }
}

/// Returns about the memory of a copy of a value.
pub(super) fn memory_of(value: &Value) -> usize {
    let inside = match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(memory_of).fold(0, usize::saturating_add),
        Value::Object(object) => {
            let member = |(name, value): (&String, &Value)| VALUE_BYTES + name.len() + memory_of(value);
            object.iter().map(member).fold(0, usize::saturating_add)
        }
        _ => 0,
    };
    inside.saturating_add(VALUE_BYTES)
}

/// Returns the length of the longest path in a document.
pub(super) fn longest_path(document: &Value) -> usize {
    match document {
        Value::Array(list) => list.iter().map(|each| INDEX_BYTES + longest_path(each)).max().unwrap_or_default(),
        Value::Object(object) => {
            object.iter().map(|(name, each)| 1 + name.len() + longest_path(each)).max().unwrap_or_default()
        }
        _ => 0,
    }
}

/// The memory of the compiled patterns that can meet a text. The validator does not tell which one does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PatternBytes {
    /// The largest pattern: one pattern meets a text for each look at it.
    pub(super) of_texts: usize,
    /// All patterns of `patternProperties` together: all can meet a name for one look at it.
    pub(super) of_names: usize,
}

/// The rest of a budget.
pub(super) struct Budget {
    steps: Cell<u64>,
    patterns: PatternBytes,
    /// Memory of errors so far.
    error_bytes: Cell<usize>,
    error: ErrorSize,
    is_exhausted: Cell<bool>,
}

impl Budget {
    /// Returns the steps for the check of one value.
    pub(super) fn steps_for(value: &Value) -> u64 {
        BASE_STEPS.saturating_add(steps_of(value))
    }

    /// Creates a budget of some steps.
    pub(super) fn new(steps: u64, patterns: PatternBytes, error: ErrorSize) -> Self {
        Self { steps: Cell::new(steps), patterns, error_bytes: Cell::new(0), error, is_exhausted: Cell::new(false) }
    }

    /// Returns the steps that are left.
    pub(super) fn left(&self) -> u64 {
        if self.is_exhausted() { 0 } else { self.steps.get() }
    }

    /// Returns whether the validator saw less than the whole value.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted.get()
    }

    /// Takes steps. Returns `false` if there are not enough, and from then on.
    fn take(&self, steps: u64) -> bool {
        match self.steps.get().checked_sub(steps) {
            Some(left) if !self.is_exhausted.get() => {
                self.steps.set(left);
                true
            }
            _ => {
                self.is_exhausted.set(true);
                false
            }
        }
    }

    fn take_text(&self, text: &str) -> bool {
        self.take(steps_of_text(text, self.patterns.of_texts))
    }

    fn take_name(&self, name: &str) -> bool {
        self.take(steps_of_text(name, self.patterns.of_names))
    }
}

/// Returns the steps of one look at a text. Even an empty text costs the work of a pattern once.
fn steps_of_text(text: &str, pattern_bytes: usize) -> u64 {
    let bytes = text.len() as u64;
    let work = bytes.saturating_add(1).saturating_mul(pattern_bytes as u64);
    1 + (bytes / BYTES_PER_STEP).max(work / PATTERN_WORK_PER_STEP)
}

fn steps_of(value: &Value) -> u64 {
    let inside = match value {
        Value::String(text) => text.len() as u64,
        Value::Array(list) => list.iter().map(steps_of).fold(0, u64::saturating_add),
        Value::Object(object) => {
            let steps = |(name, value): (&String, &Value)| (name.len() as u64).saturating_add(steps_of(value));
            object.iter().map(steps).fold(0, u64::saturating_add)
        }
        _ => 0,
    };
    inside.saturating_add(STEPS_PER_VALUE)
}

/// A value with the budget.
#[derive(Clone, Copy)]
pub(super) struct BoundedNode<'a> {
    value: &'a Value,
    budget: &'a Budget,
    depth: u8,
    /// The length of its path in bytes.
    path: usize,
}

impl<'a> BoundedNode<'a> {
    /// Returns the whole value.
    pub(super) fn root(value: &'a Value, budget: &'a Budget) -> Self {
        Self { value, budget, depth: 0, path: 0 }
    }

    /// Returns whether the validator may look inside. It may not below the maximum depth.
    fn enter(&self) -> bool {
        if self.depth >= MAX_DEPTH {
            self.budget.is_exhausted.set(true);
        }
        self.budget.take(1)
    }
}

impl Json for BoundedJson {
    type Node<'a> = BoundedNode<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(BoundedNode<'_>) -> T) -> T {
        let value = Value::from(string);
        let budget = Budget::new(Budget::steps_for(&value), PatternBytes::default(), ErrorSize::default());
        f(BoundedNode::root(&value, &budget))
    }
}

impl<'a> Node<'a, BoundedJson> for BoundedNode<'a> {
    type Object = BoundedObject<'a>;
    type Array = BoundedArray<'a>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<BoundedObject<'a>> {
        let Self { value, budget, depth, path } = *self;
        let map = value.as_object().filter(|_| self.enter())?;
        Some(BoundedObject { map, budget, depth, path })
    }

    fn as_array(&self) -> Option<BoundedArray<'a>> {
        let Self { value, budget, depth, path } = *self;
        let list = value.as_array().filter(|_| self.enter())?;
        Some(BoundedArray { list, budget, depth, path })
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        self.value.as_str().filter(|text| self.budget.take_text(text)).map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        self.value.as_number().filter(|_| self.budget.take(1))
    }

    fn as_boolean(&self) -> Option<bool> {
        self.value.as_bool().filter(|_| self.budget.take(1))
    }

    fn is_null(&self) -> bool {
        self.value.is_null() && self.budget.take(1)
    }

    fn json_type(&self) -> JsonType {
        // Its type is known without a look inside; the step bounds the number of questions.
        self.budget.take(1);
        match self.value {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &Value) -> bool {
        self.budget.take(1) && cmp::equal(self.value, expected)
    }

    /// Only errors ask for it.
    fn to_value(&self) -> Cow<'a, Value> {
        if self.budget.is_exhausted() {
            return Cow::Owned(Value::Null);
        }
        let size = self.budget.error.of_error_about(self.value, self.depth);
        let bytes = self.budget.error_bytes.get().saturating_add(size).saturating_add(self.path);
        self.budget.error_bytes.set(bytes);
        // The error that exceeds the maximum is the last one, so there is always one.
        self.budget.is_exhausted.set(bytes > MAX_ERROR_BYTES);
        Cow::Borrowed(self.value)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref(self.value).addr()))
    }
}

/// An object with the budget.
pub(super) struct BoundedObject<'a> {
    map: &'a Map<String, Value>,
    budget: &'a Budget,
    depth: u8,
    path: usize,
}

impl<'a> Object<'a, BoundedJson> for BoundedObject<'a> {
    type Node = BoundedNode<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        self.map.len()
    }

    fn get(&self, key: &String) -> Option<BoundedNode<'a>> {
        let value = self.map.get(key).filter(|_| !self.budget.is_exhausted());
        if !self.budget.take(1) {
            return None;
        }
        let path = self.path.saturating_add(key.len()).saturating_add(1);
        Some(BoundedNode { value: value?, budget: self.budget, depth: self.depth + 1, path })
    }

    fn members(&self) -> Members<'a> {
        Members { members: self.map.iter(), budget: self.budget, depth: self.depth + 1, path: self.path }
    }

    fn try_for_each_name_node<B>(
        &self,
        (): &mut (),
        mut f: impl FnMut(BoundedNode<'_>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        for (name, _) in self.members() {
            let value = Value::from(name);
            f(BoundedNode { value: &value, budget: self.budget, depth: self.depth + 1, path: self.path })?;
        }
        ControlFlow::Continue(())
    }
}

/// The members of an object, until the budget is used up.
pub(super) struct Members<'a> {
    members: serde_json::map::Iter<'a>,
    budget: &'a Budget,
    depth: u8,
    path: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, BoundedNode<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, value) = self.members.next().filter(|(name, _)| self.budget.take_name(name))?;
        let path = self.path.saturating_add(name.len()).saturating_add(1);
        Some((name, BoundedNode { value, budget: self.budget, depth: self.depth, path }))
    }
}

/// An array with the budget.
pub(super) struct BoundedArray<'a> {
    list: &'a [Value],
    budget: &'a Budget,
    depth: u8,
    path: usize,
}

impl<'a> Array<'a, BoundedJson> for BoundedArray<'a> {
    type Node = BoundedNode<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        self.list.len()
    }

    fn elements(&self) -> Elements<'a> {
        let path = self.path.saturating_add(INDEX_BYTES);
        Elements { elements: self.list.iter(), budget: self.budget, depth: self.depth + 1, path }
    }

    fn is_unique(&self) -> bool {
        let inside = self.list.iter().map(steps_of).fold(0, u64::saturating_add) / STEPS_PER_VALUE;
        !self.budget.take(inside) || unique::are_unique(self.list)
    }
}

/// The elements of an array, until the budget is used up.
pub(super) struct Elements<'a> {
    elements: std::slice::Iter<'a, Value>,
    budget: &'a Budget,
    depth: u8,
    path: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = BoundedNode<'a>;

    fn next(&mut self) -> Option<BoundedNode<'a>> {
        let value = self.elements.next().filter(|_| self.budget.take(1))?;
        Some(BoundedNode { value, budget: self.budget, depth: self.depth, path: self.path })
    }
}
