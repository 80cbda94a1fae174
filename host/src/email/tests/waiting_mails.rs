//! Mails that wait: attempts, leases, repeats, bounds, and outages.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_mail_that_fails_for_a_day_is_kept_until_an_operator_retries_it() {
    let world = World::new().await;
    // No server listens on this address any more.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mailer = mailer(&world, with_server(&format!("smtp://{address}?tls=none"))).unwrap();
    let begun = world.clock.now();
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    world.user("jane@example.com").await;
    while waiting(&world).await > 0 {
        mailer.step().await.unwrap();
        world.clock.advance(LONGEST_BACKOFF);
    }
    let passed = world.clock.now().since(begun);
    assert!((HOST_PATIENCE..HOST_PATIENCE + 2 * LONGEST_BACKOFF).contains(&passed), "{passed:?}");
    assert_eq!(mailer.outcomes()[2], ("expired", 1));
    let [mail] = dead(&world).await.try_into().unwrap();
    assert_eq!((mail.kind.as_str(), mail.plugin), ("recovery", None));
    assert!(mail.reason.unwrap().contains("mail server"));
    // Another one is queued in spite of it, and is sent.
    let (sink, url) = Sink::start().await;
    let working = self::mailer(&world, with_server(&url)).unwrap();
    working.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(working.step().await.unwrap());
    assert_eq!(sink.mails().len(), 1);

    operator::change_one(&world.db, Change::Retry, mail.seq, &Initiator::host(), world.clock.now()).await.unwrap();
    assert!(dead(&world).await.is_empty() && working.step().await.unwrap());
    assert_eq!((sink.mails().len(), waiting(&world).await), (2, 0));
}

#[tokio::test]
async fn one_recovery_waits_for_each_address_and_is_not_sent_again_for_a_while() {
    let world = World::new().await;
    world.user("jane@example.com").await;
    world.user("joan@example.com").await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    for _ in 0..3 {
        for email in ["jane@example.com", "JANE@example.com", "nobody@example.com"] {
            mailer.enqueue(&recovery(email)).await.unwrap();
        }
    }
    assert_eq!(waiting(&world).await, 2);
    while mailer.step().await.unwrap() {}
    assert_eq!(sink.mails().len(), 1);

    // Another recipient and another kind of mail are not held up.
    for mail in [
        recovery("jane@example.com"),
        recovery("joan@example.com"),
        Mail::AccountExists { email: "jane@example.com".to_owned() },
    ] {
        mailer.enqueue(&mail).await.unwrap();
        assert!(mailer.step().await.unwrap());
    }
    assert_eq!((sink.mails().len(), mailer.outcomes()[4]), (3, ("repeated", 1)));
    world.clock.advance(Duration::from_secs(5 * 60));
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!((sink.mails().len(), waiting(&world).await), (4, 0));
}

#[tokio::test]
async fn a_mail_that_failed_is_sent_even_if_it_was_requested_again() {
    let world = World::new().await;
    world.user("jane@example.com").await;
    let (sink, url) = Sink::start().await;
    sink.refuses.store(1, Ordering::SeqCst);
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(mailer.step().await.unwrap());
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    world.clock.advance(FIRST_BACKOFF);
    while mailer.step().await.unwrap() {}
    assert_eq!((sink.mails().len(), waiting(&world).await), (1, 0));
}

#[tokio::test]
async fn a_full_queue_refuses_mail_and_anonymous_callers_cannot_fill_it() {
    let world = World::new().await;
    let mailer = mailer(&world, |config| config.email.queue = 12).unwrap();
    let full = |result: Result<()>| result.err().map(|error| error.code().to_string());
    for number in 0..9 {
        mailer.enqueue(&recovery(&format!("a{number}@example.com"))).await.unwrap();
    }
    let refused = full(mailer.enqueue(&recovery("a9@example.com")).await);
    assert_eq!(refused.as_deref(), Some("mail_queue_full"));
    let test = Mail::Test { email: "a@example.com".to_owned() };
    for _ in 0..3 {
        mailer.enqueue(&test).await.unwrap();
    }
    assert_eq!(full(mailer.enqueue(&test).await).as_deref(), Some("mail_queue_full"));
    assert!(mailer.step().await.unwrap());
    mailer.enqueue(&test).await.unwrap();
}

#[tokio::test]
async fn several_workers_send_each_mail_once() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let workers = [mailer(&world, with_server(&url)).unwrap(), mailer(&world, with_server(&url)).unwrap()];
    for number in 0..10 {
        workers[0].enqueue(&Mail::Test { email: format!("a{number}@example.com") }).await.unwrap();
    }
    let stop = CancellationToken::new();
    let tasks: Vec<_> = workers.iter().map(|worker| tokio::spawn(worker.clone().run(stop.clone()))).collect();
    while sink.mails().len() < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(5), task).await.expect("stops immediately").unwrap();
    }
    assert_eq!((sink.mails().len(), waiting(&world).await), (10, 0));
}

/// Otherwise an outage would keep the host's database busy with attempts that all fail.
#[tokio::test]
async fn while_the_mail_server_is_away_the_mails_are_not_tried_one_after_the_other() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refusals.lock().unwrap().session = Some("421 too busy");
    let mailer = mailer(&world, with_server(&url)).unwrap();
    for number in 0..100 {
        mailer.enqueue(&Mail::Test { email: format!("a{number}@example.com") }).await.unwrap();
    }
    let stop = CancellationToken::new();
    let task = tokio::spawn(mailer.clone().run(stop.clone()));
    while sink.connections.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    task.await.unwrap();
    assert!(sink.connections.load(Ordering::SeqCst) < 10);
}

/// Otherwise its lease could end while it is sent, and another node would send it too.
#[tokio::test]
async fn a_mail_that_was_prepared_too_slowly_is_sent_in_another_attempt() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let letter = Letter {
        id: MailId(Random::System.uuid().unwrap()),
        to: "a@example.com".to_owned(),
        subject: "Hello".to_owned(),
        text: "Hello".to_owned(),
        html: None,
        attachments: Vec::new(),
    };
    let begun = world.clock.monotonic();
    world.clock.advance(PREPARE_TIME + Duration::from_secs(1));
    let late = mailer.deliver(None, letter.clone(), begun).await;
    assert!(late.is_err_and(|error| error.failure == Failure::Later) && sink.mails().is_empty());
    assert!(mailer.deliver(None, letter, world.clock.monotonic()).await.is_ok());
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn no_mail_waits_for_a_clock_that_was_set_back() {
    let world = World::new().await;
    world.user("jane@example.com").await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    let execute = async |sql: &'static str| sqlx::query(sql).execute(pool).await.map(drop).unwrap();
    // A recovery that was sent while the clock was a day ahead.
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(mailer.step().await.unwrap());
    execute("UPDATE recent_mails SET until = until + 86400000000").await;
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(sink.mails().len(), 2);

    // Of three mails, one is new, one failed, and one is being sent.
    for number in 0..3 {
        mailer.enqueue(&Mail::Test { email: format!("a{number}@example.com") }).await.unwrap();
    }
    sink.refuses.store(1, Ordering::SeqCst);
    assert!(mailer.step().await.unwrap());
    let now = world.clock.now();
    db::email::claim(&world.db, HOST, now, now.plus(LEASE)).await.unwrap().unwrap();
    assert_eq!(db::email::end_long_waits(&world.db, now, LONGEST_WAIT).await.unwrap(), 0);
    execute("UPDATE mail_queue SET next_at = next_at + 86400000000").await;
    assert!(!mailer.step().await.unwrap());
    assert_eq!(db::email::end_long_waits(&world.db, now, LONGEST_WAIT).await.unwrap(), 2);
    while mailer.step().await.unwrap() {}
    assert_eq!((sink.mails().len(), waiting(&world).await), (4, 1));
}

/// The database can fail between the sending of a mail and the end of its lease.
#[tokio::test]
async fn a_mail_that_was_sent_while_the_database_failed_is_not_sent_again() {
    let world = World::new().await;
    let user = world.user("jane@example.com").await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    let execute = async |sql: &'static str| sqlx::query(sql).execute(pool).await.map(drop).unwrap();
    execute("CREATE TRIGGER refuse BEFORE DELETE ON mail_queue BEGIN SELECT RAISE(ABORT, 'refused'); END").await;
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    mailer.enqueue(&Mail::NewAccount { user_id: user.id }).await.unwrap();
    for _ in 0..3 {
        assert!(mailer.step().await.is_err());
        world.clock.advance(LEASE);
    }
    assert_eq!((sink.mails().len(), waiting(&world).await), (1, 2));
    execute("DROP TRIGGER refuse").await;
    while mailer.step().await.unwrap() {}
    assert_eq!((sink.mails().len(), waiting(&world).await), (2, 0));
    mailer.enqueue(&recovery("jane@example.com")).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(mailer.outcomes()[4], ("repeated", 1), "the first one was recorded");
}

#[tokio::test]
async fn when_the_mail_server_is_back_the_mails_that_waited_for_it_are_due_at_once() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let test = |name: &str| Mail::Test { email: format!("{name}@example.com") };
    sink.refusals.lock().unwrap().session = Some("421 too busy");
    for number in 0..3 {
        mailer.enqueue(&test(&format!("a{number}"))).await.unwrap();
    }
    queue(&world, "items", address("jane@example.com"), |_| ()).await;
    for _ in 0..5 {
        world.clock.advance(LONGEST_BACKOFF);
        while mailer.step().await.unwrap() {}
        send_of_plugins(&mailer).await;
    }
    sink.refusals.lock().unwrap().session = None;
    // This one waits because of itself.
    sink.refuses.store(1, Ordering::SeqCst);
    mailer.enqueue(&test("later")).await.unwrap();
    assert!(mailer.step().await.unwrap() && !mailer.step().await.unwrap());
    // Another worker sends this one just now.
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    sqlx::query("UPDATE mail_queue SET next_at = 0 WHERE id = 1").execute(pool).await.unwrap();
    let now = world.clock.now();
    db::email::claim(&world.db, HOST, now, now.plus(LEASE)).await.unwrap().unwrap();

    mailer.enqueue(&test("new")).await.unwrap();
    while mailer.step().await.unwrap() {}
    send_of_plugins(&mailer).await;
    let mails = sink.mails();
    let is_sent = |name: &str| mails.iter().any(|mail| mail.contains(&format!("To: {name}@example.com\n")));
    assert_eq!(["new", "a1", "a2", "jane"].map(is_sent), [true; 4]);
    assert_eq!((mails.len(), waiting(&world).await), (4, 2));

    // Operators can send the others at once too, but not the one that is being sent.
    let retry = async || {
        let (host, at) = (Initiator::host(), world.clock.now());
        operator::change_all(&world.db, Change::Retry, None, "waiting", &host, at).await.unwrap()
    };
    assert_eq!(retry().await, 1);
    assert_eq!(retry().await, 0, "it is due");
    let one = operator::change_one(&world.db, Change::Retry, 1, &Initiator::host(), world.clock.now()).await;
    let refused = one.unwrap_err();
    assert_eq!(refused.code().to_string(), "mail_state");
    assert!(refused.public().contains("`wharf mail show 1`"), "{}", refused.public());
    assert!(mailer.step().await.unwrap() && !mailer.step().await.unwrap());
    assert!(sink.mails()[4].contains("To: later@example.com\n"));
}

/// A mail server that takes one mail a minute is away in between. Each of the others would be tried again each time.
#[tokio::test]
async fn a_mail_server_that_comes_and_goes_does_not_use_up_the_attempts_of_a_mail() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    let test = |name: &str| Mail::Test { email: format!("{name}@example.com") };
    sink.refusals.lock().unwrap().session = Some("421 too busy");
    for name in ["often", "once"] {
        mailer.enqueue(&test(name)).await.unwrap();
    }
    while mailer.step().await.unwrap() {}
    let Db::Sqlite(pool) = &world.db else { unreachable!() };
    let often = sqlx::query("UPDATE mail_queue SET attempts = $1 WHERE id = 1").bind(RETURNED_ATTEMPTS);
    often.execute(pool).await.unwrap();
    sink.refusals.lock().unwrap().session = None;
    mailer.enqueue(&test("new")).await.unwrap();
    while mailer.step().await.unwrap() {}
    assert_eq!((sink.mails().len(), waiting(&world).await), (2, 1));
    world.clock.advance(FIRST_BACKOFF);
    while mailer.step().await.unwrap() {}
    assert!(sink.mails()[2].contains("To: often@example.com\n"));
}

/// A host that was restarted may have the settings of another mail server.
#[tokio::test]
async fn the_mails_that_waited_for_the_mail_server_of_an_earlier_process_are_due_at_once() {
    let world = World::new().await;
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let earlier = mailer(&world, with_server(&format!("smtp://{address}?tls=none"))).unwrap();
    earlier.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(earlier.step().await.unwrap() && !earlier.step().await.unwrap());
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    assert!(!mailer.step().await.unwrap());
    mailer.enqueue(&Mail::Test { email: "b@example.com".to_owned() }).await.unwrap();
    while mailer.step().await.unwrap() {}
    assert_eq!((sink.mails().len(), waiting(&world).await), (2, 0));
}

#[tokio::test]
async fn a_claimed_mail_can_be_claimed_by_another_node_after_its_lease() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    let now = world.clock.now();
    assert!(db::email::claim(&world.db, HOST, now, now.plus(LEASE)).await.unwrap().is_some());
    assert!(!mailer.step().await.unwrap());
    world.clock.advance(LEASE);
    assert!(mailer.step().await.unwrap());
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn without_a_server_mail_is_logged_in_development_and_dropped_otherwise() {
    let world = World::new().await;
    world.user("a@example.com").await;
    for (development, delivery) in [(true, Delivery::Log), (false, Delivery::Off)] {
        let mailer = mailer(&world, |config| config.server.development = development).unwrap();
        assert_eq!(mailer.delivery(), delivery);
        mailer.enqueue(&recovery("a@example.com")).await.unwrap();
        assert!(mailer.step().await.unwrap());
        assert_eq!(waiting(&world).await, 0);
    }
}

#[tokio::test]
async fn development_sends_mail_if_a_server_is_configured() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, |config| {
        with_server(&url)(config);
        config.server.development = true;
    })
    .unwrap();
    assert_eq!(mailer.delivery(), Delivery::Smtp);
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(sink.mails().len(), 1);
}

#[tokio::test]
async fn an_invalid_url_is_refused_and_not_quoted() {
    let world = World::new().await;
    for url in
        ["hunter2", "http://u:hunter2@mail", "smtp://u:hunter2@mail?tls=maybe", "smtp:///hunter2", "smtp://u:hunter2@"]
    {
        let error = mailer(&world, with_server(url)).err().expect(url);
        assert!(error.report().contains("email.smtp_url") && !error.report().contains("hunter2"), "{}", error.report());
    }
    for url in ["smtp://user:p%40ss@mail.example.com", "smtps://mail.example.com", "smtp://[::1]:1025?tls=none"] {
        assert!(mailer(&world, with_server(url)).is_ok(), "{url}");
    }
}

#[test]
fn waits_double_up_to_an_hour() {
    let waits: Vec<u64> = (1..=10).map(|attempts| backoff(attempts).as_secs()).collect();
    assert_eq!(waits, [15, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
}
