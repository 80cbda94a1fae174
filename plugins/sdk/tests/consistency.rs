//! Plugins whose declarations contradict each other, and what their authors are told.

use wharf_sdk::testing::check;

/// The test that `plugin!` adds would fail for these plugins; inside a function it is not collected.
macro_rules! faulty {
    ($name:ident, $text:literal, { $($item:item)* }) => {
        #[test]
        #[should_panic(expected = $text)]
        fn $name() {
            use wharf_sdk::prelude::*;
            $($item)*
            check(&PLUGIN);
        }
    };
}

mod other {
    use wharf_sdk::prelude::*;

    #[derive(serde::Serialize, JsonSchema)]
    pub(super) struct Item {
        pub(super) other: bool,
    }
}

faulty!(two_types_of_one_name, "two types have the schema name `Item`", {
    #[derive(serde::Deserialize, JsonSchema)]
    struct Item {
        title: String,
    }

    #[post("/")]
    fn create(Json(item): Json<Item>) -> Json<other::Item> {
        Json(other::Item { other: item.title.is_empty() })
    }

    plugin! { name: "shop", summary: "Sells", routes: [create] }
});

faulty!(a_field_that_must_be_there, "`Update` needs `#[serde(default)]` above it, so that `title` may be left out", {
    #[derive(serde::Deserialize, JsonSchema)]
    struct Update {
        title: Field<String>,
    }

    #[post("/")]
    fn update(Json(update): Json<Update>) -> Text {
        Text(update.title.into_option().unwrap_or_default())
    }

    plugin! { name: "shop", summary: "Sells", routes: [update] }
});

faulty!(one_path_twice, "`two`: another handler has the route `GET /{b}`", {
    #[get("/{a}")]
    fn one(Path(a): Path<String>) -> Text {
        Text(a)
    }

    #[get("/{b}")]
    fn two(Path(b): Path<String>) -> Text {
        Text(b)
    }

    plugin! { name: "shop", summary: "Sells", routes: [one, two] }
});

faulty!(a_struct_with_other_members_than_the_path, "`Path<Line>` has the members order: not the path's parameters", {
    #[derive(serde::Deserialize, JsonSchema)]
    struct Line {
        order: String,
    }

    #[get("/{id}")]
    fn line(Path(line): Path<Line>) -> Text {
        Text(line.order)
    }

    plugin! { name: "shop", summary: "Sells", routes: [line] }
});

faulty!(a_query_without_names, "`Query<string>` is not a struct with named members", {
    #[get("/")]
    fn list(Query(text): Query<String>) -> Text {
        Text(text)
    }

    plugin! { name: "shop", summary: "Sells", routes: [list] }
});
