//! The declaration of a section of the configuration: one entry per setting, with its meaning, type, default, environment
//! variable and the kind of its values. From these entries come the section's type, its defaults, its reader and the
//! kind of each setting. `config::load` reads the sections; nothing else repeats a key, a variable or a range.

/// Declares the settings of a section: `FIELD: TYPE = DEFAULT, "VARIABLE", KIND;` for each setting. The key of a
/// setting is `SECTION.FIELD`. `SECTION::FIELD()` returns the kind of its values.
macro_rules! settings {
    (
        $(#[$about:meta])*
        $name:ident in $section:ident {
            $($(#[$meaning:meta])* $field:ident: $type:ty = $default:expr, $env:literal, $kind:expr;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub struct $name {
            $($(#[$meaning])* #[doc = concat!("`", $env, "`")] pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        impl $name {
            /// Reads the section. A setting that no source gives has its value of `defaults`.
            pub(in crate::config) fn read(
                reader: &mut $crate::config::reader::Reader<'_>,
                defaults: Self,
            ) -> Self {
                Self {
                    $($field: reader.read(
                        concat!(stringify!($section), ".", stringify!($field)),
                        $env,
                        &Self::$field(),
                        defaults.$field,
                    ),)*
                }
            }

            $(
                #[doc = concat!("The kind of values of `", stringify!($section), ".", stringify!($field), "`.")]
                pub(crate) fn $field() -> $crate::config::kind::Kind<$type> {
                    $kind
                }
            )*
        }
    };
}
pub(super) use settings;
