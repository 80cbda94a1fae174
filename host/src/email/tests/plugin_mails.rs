//! Mails of plugins: recipients, turns, and bounds of those that are dead.

use super::*;

#[tokio::test]
async fn a_mail_of_a_plugin_has_the_host_as_sender_and_its_own_content() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let file = MailAttachment {
        name: "übersicht \"1\".csv".to_owned(),
        content_type: "text/csv".to_owned(),
        content: "YQouCmIK".to_owned(),
    };
    let id = queue(&world, "items", address("jane@example.com"), |mail| {
        mail.html = Some("<p>3 items</p>".to_owned());
        mail.attachments = vec![file];
        mail.text = "first\r.\rsecond".to_owned();
    })
    .await;
    send_of_plugins(&mailer).await;
    let mails = sink.mails();
    assert_eq!(mails.len(), 1);
    for part in [
        "From: Wharf <wharf@example.com>",
        "To: jane@example.com",
        "Subject: Your items",
        "Auto-Submitted: auto-generated",
        &format!("Message-ID: <{id}@example.com>"),
        "multipart/mixed",
        "<p>3 items</p>",
        "Content-Type: text/csv",
        "YQouCmIK",
        "first\n..\nsecond",
    ] {
        assert!(mails[0].contains(part), "{part} in {}", mails[0]);
    }
    let counts = [("sent", 1), ("refused", 0), ("expired", 0), ("undeliverable", 0), ("retried", 0)];
    assert_eq!(mailer.plugin_outcomes(), [("items".parse().unwrap(), counts)]);
}

#[tokio::test]
async fn an_account_gets_mail_only_while_it_is_active_and_verified() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let user = world.user("jane@example.com").await;
    let send = async || {
        queue(&world, "items", MailRecipient::Account(user.id), |_| ()).await;
        send_of_plugins(&mailer).await;
        sink.mails().len()
    };
    assert_eq!(send().await, 1, "an operator created the account, and vouches for the address");
    let execute = async |sql: &'static str| {
        let Db::Sqlite(pool) = &world.db else { unreachable!() };
        sqlx::query(sql).execute(pool).await.unwrap();
    };
    execute("UPDATE users SET email_verified_at = NULL").await;
    assert_eq!(send().await, 1);
    execute("UPDATE users SET email_verified_at = 1, is_active = 0").await;
    assert_eq!(send().await, 1);
    execute("UPDATE users SET is_active = 1").await;
    assert_eq!(send().await, 2);
    execute("DELETE FROM users").await;
    assert_eq!(send().await, 2);
    assert_eq!(mailer.plugin_outcomes()[0].1[3], ("undeliverable", 3));
    assert!(dead(&world).await.is_empty(), "nothing of it is kept");
}

/// As when a plugin had it in its outbox, or the host stopped in the middle of the operation.
#[tokio::test]
async fn a_mail_that_comes_after_a_revocation_or_a_removal_is_sent_only_if_an_operator_retries_it() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let execute = async |sql: &'static str| {
        let Db::Sqlite(pool) = &world.db else { unreachable!() };
        sqlx::query(sql).execute(pool).await.unwrap();
    };
    execute("INSERT INTO plugins (name, mount, state, live_release) VALUES ('items', '/items', 'live', 1)").await;
    for (change, reason) in [
        ("UPDATE plugins SET revoked = '[\"sql\", \"email\"]'", "the grant 'email' was revoked"),
        ("UPDATE plugins SET revoked = '[]', state = 'removed'", "the plugin was removed"),
    ] {
        execute(change).await;
        queue(&world, "items", address("jane@example.com"), |_| ()).await;
        send_of_plugins(&mailer).await;
        let [mail] = dead(&world).await.try_into().unwrap();
        assert_eq!((mail.reason.as_deref(), sink.mails().len()), (Some(reason), 0));
        world.clock.advance(Duration::from_secs(1));
        operator::change_one(&world.db, Change::Retry, mail.seq, &Initiator::host(), world.clock.now()).await.unwrap();
        send_of_plugins(&mailer).await;
        assert_eq!(std::mem::take(&mut *sink.mails.lock().unwrap()).len(), 1);
    }
}

#[tokio::test]
async fn the_mails_of_a_paused_plugin_wait() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    let insert =
        "INSERT INTO plugins (name, mount, state, live_release, paused) VALUES ('items', '/items', 'live', 1, 1)";
    sqlx::query(insert).execute(pool).await.unwrap();
    queue(&world, "items", address("jane@example.com"), |_| ()).await;
    queue(&world, "other", address("joan@example.com"), |_| ()).await;
    send_of_plugins(&mailer).await;
    assert_eq!(sink.mails().len(), 1);
    db::plugin::set_paused(&world.db, &"items".parse().unwrap(), false).await.unwrap();
    send_of_plugins(&mailer).await;
    assert_eq!(sink.mails().len(), 2);
}

#[tokio::test]
async fn a_plugin_that_is_paused_before_its_turn_has_none() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    let insert = "INSERT INTO plugins (name, mount, state, live_release) \
        VALUES ('items', '/items', 'live', 1), ('other', '/other', 'live', 1)";
    sqlx::query(insert).execute(pool).await.unwrap();
    let pause = async |paused| {
        for plugin in ["items", "other"] {
            db::plugin::set_paused(&world.db, &plugin.parse().unwrap(), paused).await.unwrap();
        }
    };
    queue(&world, "items", address("jane@example.com"), |_| ()).await;
    queue(&world, "other", address("joan@example.com"), |_| ()).await;
    let mut turns = VecDeque::new();
    assert!(mailer.send_of_next_plugin(&mut turns).await.unwrap());
    pause(true).await;
    assert!(!mailer.send_of_next_plugin(&mut turns).await.unwrap());
    assert_eq!(sink.mails().len(), 1);
    pause(false).await;
    assert!(mailer.send_of_next_plugin(&mut turns).await.unwrap());
    assert_eq!(sink.mails().len(), 2);
}

#[tokio::test]
async fn each_plugin_has_one_turn_before_any_has_another_one() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let plugins = ["a", "ab", "a-z", "b"];
    for plugin in plugins {
        for _ in 0..3 {
            queue(&world, plugin, address(&format!("{plugin}@example.com")), |_| ()).await;
        }
    }
    let mut turns = VecDeque::new();
    for round in 1..=3 {
        for _ in plugins {
            assert!(mailer.send_of_next_plugin(&mut turns).await.unwrap());
        }
        for plugin in plugins {
            let to = format!("To: {plugin}@example.com\n");
            assert_eq!(sink.mails().iter().filter(|mail| mail.contains(&to)).count(), round, "{plugin}");
        }
    }
    assert!(!mailer.send_of_next_plugin(&mut turns).await.unwrap());
}

#[tokio::test]
async fn plugins_take_turns_and_no_mail_of_theirs_delays_one_of_the_host() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    for number in 0..20 {
        queue(&world, "storm", address(&format!("storm{number}@example.com")), |_| ()).await;
    }
    queue(&world, "quiet", address("quiet@example.com"), |_| ()).await;
    mailer.enqueue(&Mail::Test { email: "host@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert!(sink.mails()[0].contains("To: host@example.com"));
    let mut turns = VecDeque::new();
    for _ in 0..2 {
        assert!(mailer.send_of_next_plugin(&mut turns).await.unwrap());
    }
    assert!(sink.mails()[1..].iter().any(|mail| mail.contains("To: quiet@example.com")));
    send_of_plugins(&mailer).await;
    assert_eq!(sink.mails().len(), 22);
}

#[tokio::test]
async fn an_outage_of_the_mail_server_delays_mails_of_plugins_and_loses_none() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refuses.store(3, Ordering::SeqCst);
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let id = queue(&world, "items", address("jane@example.com"), |_| ()).await;
    for _ in 0..6 {
        send_of_plugins(&mailer).await;
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert!(sink.mails()[0].contains(&format!("Message-ID: <{id}@example.com>")));
    assert_eq!(mailer.plugin_outcomes()[0].1[4], ("retried", 3));

    // After three days it is dead.
    sink.refuses.store(usize::MAX, Ordering::SeqCst);
    queue(&world, "items", address("jane@example.com"), |_| ()).await;
    while dead(&world).await.is_empty() {
        send_of_plugins(&mailer).await;
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert_eq!(mailer.plugin_outcomes()[0].1[2], ("expired", 1));
    // A refusal for good makes it dead at once.
    sink.refuses.store(0, Ordering::SeqCst);
    sink.refusals.lock().unwrap().recipient = Some("550 no such user here");
    queue(&world, "items", address("nobody@example.com"), |_| ()).await;
    send_of_plugins(&mailer).await;
    let dead = dead(&world).await;
    assert_eq!((dead.len(), dead[1].attempts, mailer.plugin_outcomes()[0].1[1]), (2, 1, ("refused", 1)));
    assert!(dead[1].reason.as_ref().unwrap().contains("no such user here"));
}

#[tokio::test]
async fn dead_mails_have_bounds_of_age_number_and_size_for_each_source() {
    let world = World::new().await;
    let plugin: PluginName = "items".parse().unwrap();
    for _ in 0..4 {
        queue(&world, "items", address("jane@example.com"), |_| ()).await;
    }
    queue(&world, "other", address("jane@example.com"), |_| ()).await;
    db::email::plugin_mail::bury_of_plugin(&world.db, &plugin, "test", world.clock.now()).await.unwrap();
    db::email::plugin_mail::bury_of_plugin(&world.db, &"other".parse().unwrap(), "test", world.clock.now())
        .await
        .unwrap();
    let prune = async |bounds: DeadBounds| db::email::prune(&world.db, bounds, world.clock.now()).await.unwrap();
    assert_eq!(prune(DEAD_BOUNDS).await, 0);
    assert_eq!(prune(DeadBounds { mails: 3, ..DEAD_BOUNDS }).await, 1);
    assert_eq!(prune(DeadBounds { bytes: 2 * 1024, ..DEAD_BOUNDS }).await, 1);
    assert_eq!(dead(&world).await.len(), 3);
    world.clock.advance(DEAD_BOUNDS.keep);
    assert_eq!(prune(DEAD_BOUNDS).await, 3);
}

#[tokio::test]
async fn a_flood_of_dead_mails_is_cut_to_its_bounds_at_once() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refusals.lock().unwrap().recipient = Some("550 no such user here");
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let bound = usize::try_from(DEAD_BOUNDS.mails).unwrap();
    for _ in 0..=bound {
        queue(&world, "items", address("jane@example.com"), |_| ()).await;
    }
    db::email::plugin_mail::bury_of_plugin(&world.db, &"items".parse().unwrap(), "test", world.clock.now())
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let keeping = {
        let (mailer, stop) = (mailer.clone(), stop.clone());
        tokio::spawn(async move { mailer.keep_bounds(&stop).await })
    };
    let until_kept = async || {
        let page = Page { after: None, oldest_first: true, limit: 10_000 };
        while operator::list(&world.db, None, Some("dead"), page).await.unwrap().len() > bound {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until_kept().await;
    // Large ones make the next deletion due.
    for _ in 0..4 {
        queue(&world, "items", address("jane@example.com"), |mail| mail.text = "x".repeat(PRUNE_BYTES / 4)).await;
    }
    send_of_plugins(&mailer).await;
    until_kept().await;
    stop.cancel();
    keeping.await.unwrap();
}

#[tokio::test]
async fn in_development_without_a_server_mails_are_kept_for_the_developer() {
    let world = World::new().await;
    let mailer = mailer(&world, |config| config.server.development = true).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    let id = queue(&world, "items", address("jane@example.com"), |_| ()).await;
    send_of_plugins(&mailer).await;
    let kept = mailer.kept_mails().list();
    let shown: Vec<_> =
        kept.iter().map(|mail| (mail.plugin.as_ref().map(PluginName::as_str), &*mail.letter.to)).collect();
    assert_eq!(shown, [(Some("items"), "jane@example.com"), (None, "a@example.com")]);
    assert_eq!(mailer.kept_mails().find(id).unwrap().letter.subject, "Your items");
}
