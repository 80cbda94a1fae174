//! A mail server for the tests, which can refuse and fail.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A mail server that stores received mails.
#[derive(Default)]
pub(super) struct Sink {
    pub(super) mails: Mutex<Vec<String>>,
    pub(super) connections: AtomicUsize,
    /// The number of recipients that it refuses before it accepts one.
    pub(super) refuses: AtomicUsize,
    /// Its responses to a recipient or a sender that it refuses for good, to a sign-in, and to the first command of a
    /// session.
    pub(super) refusals: Mutex<Refusals>,
    /// The commands so far.
    pub(super) commands: Mutex<Vec<String>>,
    /// Whether it never confirms a mail that it has.
    pub(super) is_silent: AtomicBool,
    /// Whether it ends the connection instead.
    pub(super) hangs_up: AtomicBool,
}

#[derive(Default, Clone, Copy)]
pub(super) struct Refusals {
    pub(super) recipient: Option<&'static str>,
    pub(super) sender: Option<&'static str>,
    pub(super) sign_in: Option<&'static str>,
    pub(super) session: Option<&'static str>,
}

impl Sink {
    pub(super) async fn start() -> (Arc<Self>, String) {
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

    pub(super) fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }
}
