//! Reads named texts (path parameters, query parameters) into typed values with serde.
//!
//! A single value reads the first text, a tuple reads them in order, a struct by name. A text is parsed as the type
//! that serde requests. `#[serde(flatten)]` requests no type, so it gets strings.

use crate::{FieldError, Problem};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::borrow::Cow;
use std::fmt::Display;

/// The parameters in order. No name is repeated.
pub(super) struct Parameters<'de>(Vec<(Cow<'de, str>, Cow<'de, str>)>);

impl<'de> Parameters<'de> {
    pub(super) fn new(pairs: Vec<(Cow<'de, str>, Cow<'de, str>)>) -> Self {
        Self(pairs)
    }

    fn single(self) -> Result<Parameter<'de>, ParameterError> {
        match self.0.into_iter().next() {
            Some((name, text)) => Ok(Parameter { name, text }),
            None => Err(ParameterError { name: String::new(), kind: "missing", message: "Field required".to_owned() }),
        }
    }
}

/// One parameter, with its name for the location of an error.
struct Parameter<'de> {
    name: Cow<'de, str>,
    text: Cow<'de, str>,
}

#[derive(Debug)]
pub(super) struct ParameterError {
    name: String,
    kind: &'static str,
    message: String,
}

impl ParameterError {
    pub(super) fn into_problem(self, location: &str) -> Problem {
        Problem::unprocessable([FieldError::new([location, self.name.as_str()], self.kind, self.message)])
    }
}

impl Display for ParameterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParameterError {}

impl serde::de::Error for ParameterError {
    fn custom<T: Display>(message: T) -> Self {
        Self { name: String::new(), kind: "value_error", message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { name: field.to_owned(), kind: "missing", message: "Field required".to_owned() }
    }
}

/// Forwards scalars to the single value.
macro_rules! single {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
            self.single()?.$method(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Parameters<'de> {
    type Error = ParameterError;

    single! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        let pairs = self.0.into_iter().map(|(name, text)| (name.clone(), Parameter { name, text }));
        visitor.visit_map(MapDeserializer::new(pairs))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_seq(SeqDeserializer::new(self.0.into_iter().map(|(name, text)| Parameter { name, text })))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, ParameterError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        visitor.visit_unit()
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        self.single()?.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! { map struct identifier ignored_any }
}

impl<'de> IntoDeserializer<'de, ParameterError> for Parameter<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Parameter<'_> {
    fn error(&self, kind: &'static str, message: String) -> ParameterError {
        ParameterError { name: self.name.to_string(), kind, message }
    }

    fn bool(&self) -> Result<bool, ParameterError> {
        let text = self.text.trim();
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        if is(&["true", "1", "yes", "on", "t", "y"]) {
            Ok(true)
        } else if is(&["false", "0", "no", "off", "f", "n"]) {
            Ok(false)
        } else {
            let message = "Input should be a valid boolean, unable to interpret input";
            Err(self.error("bool_parsing", message.to_owned()))
        }
    }
}

/// Parses scalars. An error of the visitor itself (a text that is not a UUID) gets the parameter's name.
macro_rules! parsed {
    ($($method:ident $visit:ident $type:ty, $kind:literal $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
            let Ok(value) = self.text.trim().parse::<$type>() else {
                return Err(self.error($kind, concat!("Input should be a valid ", $what).to_owned()));
            };
            visitor.$visit(value).map_err(|error: ParameterError| ParameterError { name: self.name.into_owned(), ..error })
        }
    )*};
}

impl<'de> Deserializer<'de> for Parameter<'de> {
    type Error = ParameterError;

    parsed! {
        deserialize_i8 visit_i8 i8, "int_parsing" "integer";
        deserialize_i16 visit_i16 i16, "int_parsing" "integer";
        deserialize_i32 visit_i32 i32, "int_parsing" "integer";
        deserialize_i64 visit_i64 i64, "int_parsing" "integer";
        deserialize_i128 visit_i128 i128, "int_parsing" "integer";
        deserialize_u8 visit_u8 u8, "int_parsing" "integer";
        deserialize_u16 visit_u16 u16, "int_parsing" "integer";
        deserialize_u32 visit_u32 u32, "int_parsing" "integer";
        deserialize_u64 visit_u64 u64, "int_parsing" "integer";
        deserialize_u128 visit_u128 u128, "int_parsing" "integer";
        deserialize_f32 visit_f32 f32, "float_parsing" "number";
        deserialize_f64 visit_f64 f64, "float_parsing" "number";
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_bool(self.bool()?)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        let result: Result<V::Value, ParameterError> = match self.text {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        };
        result.map_err(|error| ParameterError { name: self.name.into_owned(), ..error })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ParameterError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ParameterError> {
        let name = self.name.to_string();
        visitor.visit_enum(self).map_err(|error| ParameterError { name, ..error })
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

/// Reads a variant of an enumeration without data by its name.
impl<'de> EnumAccess<'de> for Parameter<'de> {
    type Error = ParameterError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), ParameterError> {
        let name: serde::de::value::StrDeserializer<'_, ParameterError> = self.text.as_ref().into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de> VariantAccess<'de> for Parameter<'de> {
    type Error = ParameterError;

    fn unit_variant(self) -> Result<(), ParameterError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _seed: S) -> Result<S::Value, ParameterError> {
        Err(self.error("value_error", "a parameter cannot carry data in addition to its name".to_owned()))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, ParameterError> {
        Err(self.error("value_error", "a parameter cannot carry data in addition to its name".to_owned()))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, ParameterError> {
        Err(self.error("value_error", "a parameter cannot carry data in addition to its name".to_owned()))
    }
}
