//! Plugins whose declarations contradict each other, and the errors that their authors get.

use wharf_sdk::testing::check;

/// Checks an inconsistent plugin. The test that `plugin!` adds would fail, but inside a function it is not collected.
macro_rules! inconsistent {
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

inconsistent!(two_types_with_one_schema_name_are_reported, "two types have the schema name `Item`", {
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

inconsistent!(
    a_required_field_is_reported,
    "`Update` needs `#[serde(default)]` above it, so that `title` may be left out",
    {
        #[derive(serde::Deserialize, JsonSchema)]
        struct Update {
            title: Field<String>,
        }

        #[post("/")]
        fn update(Json(update): Json<Update>) -> Text {
            Text(update.title.into_option().unwrap_or_default())
        }

        plugin! { name: "shop", summary: "Sells", routes: [update] }
    }
);

inconsistent!(a_duplicate_path_is_reported, "`two`: another handler has the route `GET /{b}`", {
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

inconsistent!(
    a_path_struct_with_other_members_is_reported,
    "`Path<Line>` has the members order: not the path's parameters",
    {
        #[derive(serde::Deserialize, JsonSchema)]
        struct Line {
            order: String,
        }

        #[get("/{id}")]
        fn line(Path(line): Path<Line>) -> Text {
            Text(line.order)
        }

        plugin! { name: "shop", summary: "Sells", routes: [line] }
    }
);

inconsistent!(a_query_that_is_not_a_struct_is_reported, "`Query<string>` is not a struct with named members", {
    #[get("/")]
    fn list(Query(text): Query<String>) -> Text {
        Text(text)
    }

    plugin! { name: "shop", summary: "Sells", routes: [list] }
});

inconsistent!(a_duplicate_topic_is_reported, "the topic `sold` is declared twice", {
    #[topic("sold")]
    #[derive(serde::Serialize, JsonSchema)]
    struct Sold;

    #[topic("sold")]
    #[derive(serde::Serialize, JsonSchema)]
    struct SoldAgain;

    plugin! { name: "shop", summary: "Sells", routes: [], topics: [Sold, SoldAgain] }
});

inconsistent!(a_duplicate_subscription_is_reported, "the subscription to `bank.paid` is declared twice", {
    #[subscribe("bank.paid")]
    fn paid(_event: Event<u32>) {}

    #[subscribe("bank.paid")]
    fn paid_again(_event: Event<u32>) {}

    plugin! { name: "shop", summary: "Sells", routes: [], subscriptions: [paid, paid_again] }
});

inconsistent!(
    a_subscription_to_an_own_topic_that_does_not_exist_is_reported,
    "`topics: […]` does not list `shop.sold`, to which the plugin subscribes",
    {
        #[subscribe("shop.sold")]
        fn sold(_event: Event<u32>) {}

        plugin! { name: "shop", summary: "Sells", routes: [], subscriptions: [sold] }
    }
);

inconsistent!(a_schedule_with_the_name_of_a_job_is_reported, "the job `tidy` is declared twice", {
    #[job]
    fn tidy() {}

    #[schedule("0 6 * * *", name = "tidy")]
    fn nightly() {}

    plugin! { name: "shop", summary: "Sells", routes: [], jobs: [tidy], schedules: [nightly] }
});

inconsistent!(
    a_schedule_whose_payload_does_not_fit_is_reported,
    "the schedule `nightly`: the payload does not fit its schema",
    {
        #[derive(Default, serde::Serialize, serde::Deserialize, JsonSchema)]
        struct Limits {
            #[schemars(range(min = 1))]
            rows: u32,
        }

        #[schedule("0 6 * * *")]
        fn nightly(job: Job<Limits>) -> Result<u32> {
            Ok(job.payload.rows)
        }

        plugin! { name: "shop", summary: "Sells", routes: [], schedules: [nightly] }
    }
);

inconsistent!(
    a_schedule_with_a_wrong_cron_expression_is_reported,
    "the schedule `nightly`: '0 24 * * *' is not a cron expression of five fields",
    {
        #[schedule("0 24 * * *")]
        fn nightly() {}

        plugin! { name: "shop", summary: "Sells", routes: [], schedules: [nightly] }
    }
);

inconsistent!(
    a_schedule_in_an_unknown_time_zone_is_reported,
    "the schedule `nightly`: 'Europe/Atlantis' is not a name of the IANA time zone database",
    {
        #[schedule("0 6 * * *", tz = "Europe/Atlantis")]
        fn nightly() {}

        plugin! { name: "shop", summary: "Sells", routes: [], schedules: [nightly] }
    }
);

/// Handlers with the words of the SDK.
mod common_names {
    use wharf_sdk::prelude::*;
    use wharf_sdk::testing::{TestPlugin, user};

    plugin! {
        name: "names",
        summary: "Has common names",
        routes: [call, describe, operation, request],
        subscriptions: [handle, event],
        jobs: [run, task],
    }

    #[get("/call")]
    fn call() -> Text {
        Text("call".to_owned())
    }

    #[get("/describe/{text}")]
    fn describe(Path(text): Path<String>) -> Text {
        Text(text)
    }

    #[get("/operation")]
    fn operation() {}

    #[post("/request")]
    fn request(Text(text): Text) -> Text {
        Text(text)
    }

    #[subscribe("bank.opened")]
    fn handle(event: Event<u32>) -> Result<(), TaskError> {
        Err(TaskError::reject(event.payload))
    }

    #[subscribe("bank.closed")]
    fn event(event: Event<u32>) -> Result<(), TaskError> {
        Err(TaskError::reject(event.payload))
    }

    #[job]
    fn run() {}

    #[job]
    fn task(job: Job<u32>) -> Result<u32, TaskError> {
        Ok(job.payload)
    }

    #[test]
    fn a_handler_may_have_any_name() {
        let plugin = TestPlugin::new(&PLUGIN);
        let alice = user("alice@example.com");
        assert_eq!(plugin.get("/call").by(&alice).send().text(), "call");
        assert_eq!(plugin.get("/describe/me").by(&alice).send().text(), "me");
        assert_eq!(plugin.get("/operation").by(&alice).send().status(), 204);
        assert_eq!(plugin.post("/request").by(&alice).body("one").send().text(), "one");
        for topic in ["bank.opened", "bank.closed"] {
            assert_eq!(plugin.deliver(topic, 7), Err(TaskError::reject(7)));
        }
        plugin.run(run::enqueue).unwrap();
        plugin.run(|| task::enqueue(&5)).unwrap();
        let outputs: Vec<_> = plugin.run_due().into_iter().map(|attempt| attempt.result.unwrap()).collect();
        assert_eq!(outputs, [None, Some(wharf_sdk::serde_json::json!(5))]);
    }
}

/// Checks a plugin with the migrations of a directory.
macro_rules! migrations {
    ($name:ident, $directory:literal $(, $text:literal)?) => {
        #[test]
        $(#[should_panic(expected = $text)])?
        fn $name() {
            use wharf_sdk::prelude::*;
            use wharf_sdk::testing::{TestPlugin, check_migrations};

            plugin! { name: "shop", summary: "Sells", migrations: $directory, routes: [] }

            let _ = TestPlugin::new(&PLUGIN);
            check_migrations(&PLUGIN, env!("CARGO_MANIFEST_DIR"), Some($directory));
        }
    };
}

migrations!(
    a_migration_that_begins_a_transaction_is_refused,
    "tests/migrations/begin",
    "a deploy refuses migration `0001_first`, statement 1: a migration may not contain BEGIN"
);
migrations!(
    a_migration_that_changes_a_setting_is_refused,
    "tests/migrations/pragma",
    "a deploy refuses migration `0001_first`, statement 2: a migration may not contain PRAGMA"
);
migrations!(a_byte_order_mark_is_no_part_of_a_migration, "tests/migrations/byte_order_mark");
