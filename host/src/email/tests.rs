use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use tokio_util::sync::CancellationToken;

use super::letter::Letter;
use super::smtp::{Failure, SendError};
use super::worker::{
    DEAD_BOUNDS, FIRST_BACKOFF, HOST_PATIENCE, LEASE, LEAST_ATTEMPTS, LONGEST_BACKOFF, LONGEST_WAIT, MAX_UNCONFIRMED,
    PREPARE_TIME, PRUNE_BYTES, RETURNED_ATTEMPTS, backoff, without_tokens,
};
use super::*;
use crate::auth::tests::{World, client};
use crate::config::Secret;
use crate::db::email::operator::{self, Change, Page, QueuedMail};
use crate::db::email::{DeadBounds, HOST};
use crate::message::{self, MailAttachment, MailRecipient, PluginMail};

impl Mailer {
    /// Handles one mail of the host that is due.
    async fn step(&self) -> Result<bool> {
        self.send_next(HOST).await
    }
}

/// A mail server that stores received mails.
#[derive(Default)]
struct Sink {
    mails: Mutex<Vec<String>>,
    connections: AtomicUsize,
    /// The number of recipients that it refuses before it accepts one.
    refuses: AtomicUsize,
    /// Its responses to a recipient or a sender that it refuses for good, to a sign-in, and to the first command of a
    /// session.
    refusals: Mutex<Refusals>,
    /// The commands so far.
    commands: Mutex<Vec<String>>,
    /// Whether it never confirms a mail that it has.
    is_silent: AtomicBool,
    /// Whether it ends the connection instead.
    hangs_up: AtomicBool,
}

#[derive(Default, Clone, Copy)]
struct Refusals {
    recipient: Option<&'static str>,
    sender: Option<&'static str>,
    sign_in: Option<&'static str>,
    session: Option<&'static str>,
}

impl Sink {
    async fn start() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sink = Arc::new(Self::default());
        let served = Arc::clone(&sink);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                served.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Arc::clone(&served).serve(stream));
            }
        });
        (sink, format!("smtp://{address}?tls=none"))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) -> Option<()> {
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(b"220 sink\r\n").await.ok()?;
        while let Some(line) = lines.next_line().await.ok()? {
            self.commands.lock().unwrap().push(line.clone());
            let refusals = *self.refusals.lock().unwrap();
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            let refuse = |left: usize| left.checked_sub(1);
            let reply = match verb.as_str() {
                "RCPT" if self.refuses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse).is_ok() => "451 later",
                "RCPT" if refusals.recipient.is_some() => refusals.recipient.unwrap(),
                "MAIL" if refusals.sender.is_some() => refusals.sender.unwrap(),
                "AUTH" if refusals.sign_in.is_some() => refusals.sign_in.unwrap(),
                "EHLO" if refusals.session.is_some() => refusals.session.unwrap(),
                "EHLO" => "250-sink\r\n250 AUTH PLAIN",
                "DATA" => {
                    writer.write_all(b"354 go on\r\n").await.ok()?;
                    let mut mail = String::new();
                    while let Some(line) = lines.next_line().await.ok()?.filter(|line| line != ".") {
                        mail.push_str(&line);
                        mail.push('\n');
                    }
                    self.mails.lock().unwrap().push(mail);
                    if self.is_silent.load(Ordering::SeqCst) {
                        std::future::pending::<()>().await;
                    }
                    if self.hangs_up.load(Ordering::SeqCst) {
                        return None;
                    }
                    "250 taken"
                }
                "QUIT" => "221 bye",
                _ => "250 fine",
            };
            writer.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
        }
        Some(())
    }

    fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}

fn mailer(world: &World, change: impl FnOnce(&mut Config)) -> Result<Mailer> {
    let mut config = Config::default();
    change(&mut config);
    Mailer::open(&config, world.db.clone(), world.auth.clone(), world.clock.clone(), Random::System)
}

fn with_server(url: &str) -> impl FnOnce(&mut Config) {
    let url = Secret::new(url);
    |config| {
        config.email.smtp_url = Some(url);
        config.email.from = Some("wharf@example.com".to_owned());
    }
}

fn recovery(email: &str) -> Mail {
    Mail::Recovery { email: email.to_owned() }
}

/// Decodes the soft line breaks and escapes of quoted-printable that occur in links.
fn readable(mail: &str) -> String {
    mail.replace("=\n", "").replace("=3D", "=")
}

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

/// Returns the number of mails of the host that wait or are being sent.
async fn waiting(world: &World) -> i64 {
    let counts = operator::counts(&world.db).await.unwrap();
    let of_host = counts.iter().find(|count| count.plugin.is_none() && count.state == "waiting");
    of_host.map_or(0, |count| count.mails)
}

/// Returns the dead mails, the oldest first.
async fn dead(world: &World) -> Vec<QueuedMail> {
    let page = Page { after: None, oldest_first: true, limit: 100 };
    operator::list(&world.db, None, Some("dead"), page).await.unwrap()
}

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
    assert_eq!(one.unwrap_err().code().to_string(), "mail_state");
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

/// Queues a mail of a plugin, and returns its id.
async fn queue(world: &World, plugin: &str, to: MailRecipient, change: impl FnOnce(&mut PluginMail)) -> MailId {
    let mut mail = PluginMail {
        id: MailId(Random::System.uuid().unwrap()),
        to,
        subject: "Your items".to_owned(),
        text: "You have\r\n3 items".to_owned(),
        html: None,
        attachments: Vec::new(),
        dedup_key: None,
        request_id: None,
        at: world.clock.now(),
    };
    change(&mut mail);
    let id = mail.id;
    let message = message::Message::Mail(mail);
    db::intake::store(&world.db, &plugin.parse().unwrap(), &[message]).await.unwrap();
    id
}

fn address(text: &str) -> MailRecipient {
    MailRecipient::Address(text.parse().unwrap())
}

/// Handles all mails of plugins that are due.
async fn send_of_plugins(mailer: &Mailer) {
    let mut turns = VecDeque::new();
    while mailer.send_of_next_plugin(&mut turns).await.unwrap() {}
}

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
