//! The way of a mail to the mail server, and the responses of the server.

use super::*;

#[tokio::test]
async fn a_recovery_mail_reaches_a_known_address_and_its_link_works_once() {
    let world = World::new().await;
    world.user("Jane@example.com").await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    assert_eq!(mailer.delivery(), Delivery::Smtp);
    for email in ["jane@example.com", "nobody@example.com", "no address", "nul\0"] {
        mailer.enqueue(&recovery(email)).await.unwrap();
    }
    while mailer.step().await.unwrap() {}
    assert_eq!(waiting(&world).await, 0);
    let mails = sink.mails();
    assert_eq!(mails.len(), 1);
    let mail = readable(&mails[0]);
    for part in ["To: Jane@example.com", "From: Wharf <wharf@example.com>", "text/plain", "text/html", "Message-ID: <"]
    {
        assert!(mail.contains(part), "{part} in {mail}");
    }
    let token = mail.split("href=\"http://localhost:5173/reset-password?token=").nth(1).unwrap();
    let token = token.split('"').next().unwrap();
    world.auth.reset_password(token, "changethat", &client()).await.unwrap();
    assert!(world.auth.reset_password(token, "changeagain", &client()).await.is_err());
}

#[tokio::test]
async fn one_connection_is_reused_for_several_mails() {
    let world = World::new().await;
    let user = world.user("a@example.com").await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "b@example.com".to_owned() }).await.unwrap();
    mailer.enqueue(&Mail::NewAccount { user_id: user.id }).await.unwrap();
    mailer.enqueue(&recovery("a@example.com")).await.unwrap();
    while mailer.step().await.unwrap() {
        // A connection goes back to its pool in a separate task.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((sink.mails().len(), sink.connections.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test]
async fn a_failed_mail_is_retried_after_growing_waits() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refuses.store(2, Ordering::SeqCst);
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert!(!mailer.step().await.unwrap(), "it is not due yet");
    world.clock.advance(Duration::from_secs(15));
    assert!(mailer.step().await.unwrap());
    world.clock.advance(Duration::from_secs(15));
    assert!(!mailer.step().await.unwrap());
    world.clock.advance(Duration::from_secs(15));
    assert!(mailer.step().await.unwrap());
    assert_eq!((sink.mails().len(), waiting(&world).await), (1, 0));
}

#[tokio::test]
async fn a_permanent_refusal_of_a_mail_is_not_retried() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refusals.lock().unwrap().recipient = Some("550 no such user here");
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(waiting(&world).await, 0);
    assert_eq!(mailer.outcomes(), [("sent", 0), ("refused", 1), ("expired", 0), ("dropped", 0), ("repeated", 0)]);
    let [mail] = dead(&world).await.try_into().unwrap();
    let reason = "the mail server did not accept a mail: permanent error (550): no such user here";
    assert_eq!(mail.reason.as_deref(), Some(reason));
    // The next mail is sent.
    sink.refusals.lock().unwrap().recipient = None;
    mailer.enqueue(&Mail::Test { email: "b@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(mailer.outcomes(), [("sent", 1), ("refused", 1), ("expired", 0), ("dropped", 0), ("repeated", 0)]);
}

#[tokio::test]
async fn a_response_that_quotes_a_link_shows_no_token() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refusals.lock().unwrap().recipient = Some("550 spam: http://localhost/reset-password?token=s3cr-t_a=3D. Bye");
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    let reason = dead(&world).await.swap_remove(0).reason.unwrap();
    assert!(reason.ends_with("http://localhost/reset-password?token=… Bye"), "{reason}");
    assert_eq!(without_tokens("no link"), "no link");
}

/// Otherwise its late response would be taken for that to the next mail.
#[tokio::test]
async fn a_session_whose_mail_was_not_confirmed_is_not_used_again() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.is_silent.store(true, Ordering::SeqCst);
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    let received = async {
        while sink.mails().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        step = mailer.step() => panic!("the attempt ended: {step:?}"),
        () = received => {}
    }
    sink.is_silent.store(false, Ordering::SeqCst);
    world.clock.advance(LEASE);
    assert!(mailer.step().await.unwrap());
    let mails = sink.mails();
    assert_eq!((mails.len(), sink.connections.load(Ordering::SeqCst), mailer.outcomes()[0]), (2, 2, ("sent", 1)));
    // A mail program can tell that the second one is a repetition.
    let id = |mail: &str| mail.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned);
    assert!(id(&mails[0]).is_some() && id(&mails[0]) == id(&mails[1]));
}

/// The mail server may have taken each of them. Attempts in which it was away count for nothing here.
#[tokio::test]
async fn a_mail_after_which_the_mail_server_hangs_up_is_repeated_a_few_times_only() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    sink.refusals.lock().unwrap().session = Some("421 too busy");
    for _ in 0..MAX_UNCONFIRMED {
        assert!(mailer.step().await.unwrap());
        world.clock.advance(LONGEST_BACKOFF);
    }
    sink.refusals.lock().unwrap().session = None;
    sink.hangs_up.store(true, Ordering::SeqCst);
    for _ in 0..MAX_UNCONFIRMED {
        assert!(dead(&world).await.is_empty() && mailer.step().await.unwrap());
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert_eq!((i64::try_from(sink.mails().len()), dead(&world).await.len()), (Ok(MAX_UNCONFIRMED), 1));
}

/// The host was off for days, for example, or its clock was wrong.
#[tokio::test]
async fn an_old_mail_is_tried_a_few_times_before_it_is_given_up() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    for address in ["a@example.com", "b@example.com"] {
        mailer.enqueue(&Mail::Test { email: address.to_owned() }).await.unwrap();
    }
    world.clock.advance(2 * HOST_PATIENCE);
    sink.refuses.store(2, Ordering::SeqCst);
    while mailer.step().await.unwrap() {}
    assert_eq!((waiting(&world).await, dead(&world).await.len()), (2, 0));
    world.clock.advance(FIRST_BACKOFF);
    assert!(mailer.step().await.unwrap());
    sink.refuses.store(usize::MAX, Ordering::SeqCst);
    while waiting(&world).await > 0 {
        mailer.step().await.unwrap();
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert_eq!((sink.mails().len(), dead(&world).await[0].attempts), (1, LEAST_ATTEMPTS));
}

#[tokio::test]
async fn a_mail_that_the_mail_server_never_confirms_is_repeated_a_few_times_only() {
    let world = World::new().await;
    let mailer = mailer(&world, with_server("smtp://127.0.0.1:9")).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    let failure = SendError { error: Error::internal("no response"), failure: Failure::Unconfirmed };
    for _ in 0..MAX_UNCONFIRMED {
        assert!(dead(&world).await.is_empty());
        let now = world.clock.now();
        let row = db::email::claim(&world.db, HOST, now, now.plus(LEASE)).await.unwrap().unwrap();
        mailer.fail(&row, None, &failure).await.unwrap();
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert_eq!(dead(&world).await.len(), 1);
}

/// Wrong credentials and a wrong sender, for example, concern every mail, and an operator can correct them.
#[tokio::test]
async fn a_permanent_refusal_of_the_session_or_the_sender_is_retried() {
    for refusals in [
        Refusals { sender: Some("550 no such sender here"), ..Refusals::default() },
        Refusals { sender: Some("553 5.1.8 bad sender"), ..Refusals::default() },
        Refusals { sender: Some("530 5.7.0 sign in first"), ..Refusals::default() },
        Refusals { recipient: Some("554 5.7.1 relay access denied"), ..Refusals::default() },
        Refusals { recipient: Some("550 relay not permitted"), ..Refusals::default() },
        Refusals { sign_in: Some("535 wrong password"), ..Refusals::default() },
        Refusals { session: Some("554 no service here"), ..Refusals::default() },
    ] {
        let world = World::new().await;
        let (sink, url) = Sink::start().await;
        *sink.refusals.lock().unwrap() = refusals;
        let mailer = mailer(&world, with_server(&url.replace("smtp://", "smtp://u:p@"))).unwrap();
        mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
        assert!(mailer.step().await.unwrap());
        assert_eq!(waiting(&world).await, 1);
        *sink.refusals.lock().unwrap() = Refusals::default();
        world.clock.advance(FIRST_BACKOFF);
        assert!(mailer.step().await.unwrap());
        assert_eq!((sink.mails().len(), waiting(&world).await), (1, 0));
    }
}

#[tokio::test]
async fn only_a_local_part_beyond_ascii_needs_smtputf8() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, |config| {
        with_server(&url)(config);
        config.email.from = Some("wharf@münchen.example".to_owned());
    })
    .unwrap();
    for (email, sent) in [("Plain@münchen.example", 1), ("jörg@example.com", 1)] {
        mailer.enqueue(&Mail::Test { email: email.to_owned() }).await.unwrap();
        assert!(mailer.step().await.unwrap());
        assert_eq!(mailer.outcomes()[0], ("sent", sent), "{email}");
    }
    assert_eq!(mailer.outcomes()[1], ("refused", 1), "the server has no SMTPUTF8");
    let mails = sink.mails();
    assert!(mails[0].contains("To: Plain@xn--mnchen-3ya.example"), "{}", mails[0]);
    assert!(mails[0].contains("wharf@xn--mnchen-3ya.example"), "{}", mails[0]);
    let commands = sink.commands.lock().unwrap();
    assert!(commands.contains(&"RCPT TO:<Plain@xn--mnchen-3ya.example>".to_owned()), "{commands:?}");
    assert!(!commands.iter().any(|command| command.contains("SMTPUTF8")), "{commands:?}");
}

/// Mailpit and MailHog offer no STARTTLS.
#[tokio::test]
async fn a_server_on_this_machine_need_not_offer_tls() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let url = url.replace("?tls=none", "");
    for url in [url.clone(), url.replace("127.0.0.1", "localhost")] {
        let mailer = mailer(&world, with_server(&url)).unwrap();
        mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
        assert!(mailer.step().await.unwrap());
        assert_eq!(mailer.outcomes()[0], ("sent", 1), "{url}");
    }
    assert_eq!(sink.mails().len(), 2);
}
