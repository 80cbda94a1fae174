use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::auth::tests::{World, client};
use crate::config::Secret;

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
    assert_eq!(db::email::count(&world.db).await.unwrap(), 0);
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
    assert_eq!((sink.mails().len(), db::email::count(&world.db).await.unwrap()), (1, 0));
}

#[tokio::test]
async fn a_permanent_refusal_of_a_mail_is_not_retried() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    sink.refusals.lock().unwrap().recipient = Some("550 no such user here");
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(db::email::count(&world.db).await.unwrap(), 0);
    assert_eq!(mailer.outcomes(), [("sent", 0), ("refused", 1), ("expired", 0), ("dropped", 0), ("repeated", 0)]);
    // The next mail is sent.
    sink.refusals.lock().unwrap().recipient = None;
    mailer.enqueue(&Mail::Test { email: "b@example.com".to_owned() }).await.unwrap();
    assert!(mailer.step().await.unwrap());
    assert_eq!(mailer.outcomes(), [("sent", 1), ("refused", 1), ("expired", 0), ("dropped", 0), ("repeated", 0)]);
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
        assert_eq!(db::email::count(&world.db).await.unwrap(), 1);
        *sink.refusals.lock().unwrap() = Refusals::default();
        world.clock.advance(FIRST_BACKOFF);
        assert!(mailer.step().await.unwrap());
        assert_eq!((sink.mails().len(), db::email::count(&world.db).await.unwrap()), (1, 0));
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

#[tokio::test]
async fn a_mail_is_dropped_after_the_last_attempt() {
    let world = World::new().await;
    // No server listens on this address any more.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mailer = mailer(&world, with_server(&format!("smtp://{address}?tls=none"))).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    let mut attempts = 0;
    while db::email::count(&world.db).await.unwrap() > 0 {
        attempts += i64::from(mailer.step().await.unwrap());
        world.clock.advance(LONGEST_BACKOFF);
    }
    assert_eq!(attempts, MAX_ATTEMPTS);
    assert_eq!(mailer.outcomes()[2], ("expired", 1));
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
    assert_eq!(db::email::count(&world.db).await.unwrap(), 2);
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
    assert_eq!((sink.mails().len(), db::email::count(&world.db).await.unwrap()), (4, 0));
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
    assert_eq!((sink.mails().len(), db::email::count(&world.db).await.unwrap()), (1, 0));
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
    assert_eq!((sink.mails().len(), db::email::count(&world.db).await.unwrap()), (10, 0));
}

#[tokio::test]
async fn a_claimed_mail_can_be_claimed_by_another_node_after_its_lease() {
    let world = World::new().await;
    let (sink, url) = Sink::start().await;
    let mailer = mailer(&world, with_server(&url)).unwrap();
    mailer.enqueue(&Mail::Test { email: "a@example.com".to_owned() }).await.unwrap();
    let now = world.clock.now();
    assert!(db::email::claim(&world.db, now, now.plus(LEASE)).await.unwrap().is_some());
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
        assert_eq!(db::email::count(&world.db).await.unwrap(), 0);
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
