//! The mails of a host in development without a mail server, as pages for its developer and as JSON for scripts. They can
//! have links that work, so only a browser or a program on this machine reads them.
//!
//! A page of another site could reach this machine under a name of its own that leads to it (DNS rebinding), and a proxy could
//! pass on requests of others. So the request has to name the host as this machine, and an address that only a header claims
//! does not count. The HTML of a mail is shown without scripts, in a frame without an origin.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::clock::Timestamp;
use crate::email::kept_mails::KeptMail;
use crate::error::{Error, Result, code};
use crate::http::Host;
use crate::http::call::Call;
use crate::http::host_route::HostRoute;
use crate::http::reply::Reply;
use crate::id::{MailId, PluginName};

/// Returns the routes for development. `http::resource` omits them unless mail is written to the log.
pub(super) fn routes() -> Vec<HostRoute<Host>> {
    vec![
        HostRoute::get("/dev/mail", read_list).public().undocumented(),
        HostRoute::get("/dev/mail.json", read_json).public().undocumented(),
        HostRoute::get("/dev/mail/{id}", read_mail).public().undocumented().path::<MailId>("id"),
        HostRoute::get("/dev/mail/{id}/html", read_html).public().undocumented().path::<MailId>("id"),
        HostRoute::get("/dev/mail/{id}/attachments/{number}", read_attachment)
            .public()
            .undocumented()
            .path::<MailId>("id")
            .path::<u32>("number"),
    ]
}

/// The pages load nothing but their own frame.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// The HTML of a mail runs nothing, loads nothing from another server, and has no origin.
const MAIL_POLICY: HeaderValue = HeaderValue::from_static(
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'self'",
);

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; } a { color: inherit; } .soft { opacity: .65; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; font-weight: 600; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:hover { background: var(--soft); } td.time { white-space: nowrap; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: 1rem; border: 1px solid var(--line); border-radius: 6px; }
iframe { width: 100%; height: 32rem; border: 1px solid var(--line); border-radius: 6px; background: #fff; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; } dd { margin: 0; overflow-wrap: anywhere; }";

/// The headers with which a proxy or a tunnel passes a request on.
const PASSED_ON: &[&str] = &["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"];

/// Checks that the request comes from this machine.
///
/// # Errors
/// 403 `forbidden`.
fn check_local(host: &Host, call: &Call) -> Result<()> {
    let this_machine = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let mut trusted = host.config.server.trusted_proxies.iter();
    let believes_proxy = trusted.any(|network| this_machine.iter().any(|address| network.contains(*address)));
    if is_local(call.address, &call.headers, believes_proxy) {
        return Ok(());
    }
    let text = "The mails of development are shown to this machine only, at http://localhost or http://127.0.0.1";
    Err(Error::forbidden(code::FORBIDDEN, text))
}

/// `believes_proxy` tells whether a proxy on this machine is trusted to name its clients.
fn is_local(address: IpAddr, headers: &HeaderMap, believes_proxy: bool) -> bool {
    // Behind a proxy that is not trusted, every client has the address of the proxy.
    let is_passed_on = PASSED_ON.iter().any(|name| headers.contains_key(*name));
    // `http::request_head` wrote the authority of the target into it: `:authority` of HTTP/2, or a whole URL.
    let named = headers.get(HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    let names_this_machine = named.is_some_and(|authority| {
        let name = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        name == "localhost"
            || name.ends_with(".localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    });
    address.is_loopback() && names_this_machine && (believes_proxy || !is_passed_on)
}

/// Returns a reply that nobody keeps.
fn unkept(reply: Reply) -> Reply {
    reply.with_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

fn page(title: &str, body: &str) -> Reply {
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
        escape(title)
    );
    unkept(Reply::html(html).with_header(CONTENT_SECURITY_POLICY, PAGE_POLICY))
}

/// Escapes a text for an element or a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Escapes a text, and makes its links clickable.
fn linked(text: &str) -> String {
    let mut html = String::new();
    let is_end = |c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"' | '\'');
    for word in text.split_inclusive(is_end) {
        let url = word.trim_end_matches(is_end);
        if url.starts_with("http://") || url.starts_with("https://") {
            let url = escape(url);
            // The page that it leads to learns nothing of this one.
            let _ = write!(html, "<a href=\"{url}\" target=\"_blank\" rel=\"noopener noreferrer\">{url}</a>");
            html.push_str(&escape(word.strip_prefix(word.trim_end_matches(is_end)).unwrap_or_default()));
        } else {
            html.push_str(&escape(word));
        }
    }
    html
}

fn source(plugin: Option<&PluginName>) -> &str {
    plugin.map_or("the host", PluginName::as_str)
}

async fn read_list(host: Arc<Host>, call: Call) -> Result<Reply> {
    let accepted = call.headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok()).unwrap_or_default();
    if accepted.contains("application/json") && !accepted.contains("text/html") {
        return read_json(host, call).await;
    }
    check_local(&host, &call)?;
    Ok(page("Mails", &list(&host.mail.kept_mails().list())))
}

fn list(mails: &[Arc<KeptMail>]) -> String {
    let mut html = String::from("<h1>Mails</h1>\n");
    if mails.is_empty() {
        html.push_str("<p class=\"soft\">No mail yet. Mails appear here, because no mail server is configured.</p>\n");
        return html;
    }
    html.push_str(
        "<p class=\"soft\">The latest mails, which were not sent. They are gone after a restart.</p>\n<table>\n<thead><tr>\
         <th>Time</th><th>To</th><th>Subject</th><th>From</th></tr></thead>\n<tbody>\n",
    );
    for mail in mails {
        let letter = &mail.letter;
        let _ = writeln!(
            html,
            "<tr><td class=\"time\">{}</td><td>{}</td><td><a href=\"/dev/mail/{}\">{}</a></td><td>{}</td></tr>",
            mail.at,
            escape(&letter.to),
            letter.id,
            escape(&letter.subject),
            source(mail.plugin.as_ref())
        );
    }
    html.push_str("</tbody>\n</table>\n");
    html
}

/// A mail for scripts.
#[derive(Serialize)]
struct ShownMail<'m> {
    id: MailId,
    at: Timestamp,
    plugin: Option<&'m PluginName>,
    to: &'m str,
    subject: &'m str,
    text: &'m str,
    html: Option<&'m str>,
    attachments: Vec<ShownAttachment<'m>>,
}

#[derive(Serialize)]
struct ShownAttachment<'m> {
    name: &'m str,
    content_type: &'m str,
    bytes: usize,
    /// The path of its content.
    path: String,
}

impl<'m> From<&'m KeptMail> for ShownMail<'m> {
    fn from(mail: &'m KeptMail) -> Self {
        let letter = &mail.letter;
        let attachments = letter.attachments.iter().enumerate().map(|(number, file)| ShownAttachment {
            name: &file.name,
            content_type: &file.content_type,
            bytes: file.content.len(),
            path: format!("/dev/mail/{}/attachments/{number}", letter.id),
        });
        Self {
            id: letter.id,
            at: mail.at,
            plugin: mail.plugin.as_ref(),
            to: &letter.to,
            subject: &letter.subject,
            text: &letter.text,
            html: letter.html.as_deref(),
            attachments: attachments.collect(),
        }
    }
}

#[derive(Serialize)]
struct ShownMails<'m> {
    data: Vec<ShownMail<'m>>,
}

async fn read_json(host: Arc<Host>, call: Call) -> Result<Reply> {
    check_local(&host, &call)?;
    let mails = host.mail.kept_mails().list();
    let data = mails.iter().map(|mail| ShownMail::from(&**mail)).collect();
    Ok(unkept(Reply::json(&ShownMails { data })?))
}

/// Returns the mail that the path names.
fn find(host: &Host, call: &Call) -> Result<Arc<KeptMail>> {
    check_local(host, call)?;
    let mail = host.mail.kept_mails().find(call.path("id")?);
    mail.ok_or_else(|| Error::not_found(code::MAIL_NOT_FOUND, "There is no such mail, or it is not kept any more"))
}

async fn read_mail(host: Arc<Host>, call: Call) -> Result<Reply> {
    let mail = find(&host, &call)?;
    Ok(page(&mail.letter.subject, &view(&mail)))
}

fn view(mail: &KeptMail) -> String {
    let letter = &mail.letter;
    let id = letter.id;
    let mut html = format!(
        "<p><a href=\"/dev/mail\">All mails</a></p>\n<h1>{}</h1>\n<dl><dt>To</dt><dd>{}</dd><dt>Time</dt><dd>{}</dd>\
         <dt>From</dt><dd>{}</dd>",
        escape(&letter.subject),
        escape(&letter.to),
        mail.at,
        source(mail.plugin.as_ref())
    );
    for (number, file) in letter.attachments.iter().enumerate() {
        let _ = write!(
            html,
            "<dt>Attachment</dt><dd><a href=\"/dev/mail/{id}/attachments/{number}\" download>{}</a> \
             <span class=\"soft\">{}, {} bytes</span></dd>",
            escape(&file.name),
            escape(&file.content_type),
            file.content.len()
        );
    }
    let _ = writeln!(html, "</dl>\n<h2>Text</h2>\n<pre>{}</pre>", linked(&letter.text));
    if letter.html.is_some() {
        let _ = writeln!(
            html,
            "<h2>HTML</h2>\n<iframe src=\"/dev/mail/{id}/html\" sandbox=\"\" title=\"The mail as HTML\"></iframe>"
        );
    }
    html
}

async fn read_html(host: Arc<Host>, call: Call) -> Result<Reply> {
    let mail = find(&host, &call)?;
    let html = mail.letter.html.clone();
    let html = html.ok_or_else(|| Error::not_found(code::MAIL_NOT_FOUND, "The mail has no HTML"))?;
    Ok(unkept(Reply::html(html).with_header(CONTENT_SECURITY_POLICY, MAIL_POLICY)))
}

async fn read_attachment(host: Arc<Host>, call: Call) -> Result<Reply> {
    let mail = find(&host, &call)?;
    let number: usize = call.path("number")?;
    let file = mail.letter.attachments.get(number);
    let file = file.ok_or_else(|| Error::not_found(code::MAIL_NOT_FOUND, "The mail has no such attachment"))?;
    let name = utf8_percent_encode(&file.name, NON_ALPHANUMERIC);
    let disposition = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{name}"));
    let disposition = disposition.map_err(|error| Error::internal("the name of a file").with_source(error))?;
    // Never the type that the plugin named: a browser downloads the file, whatever it is.
    let reply = Reply::new(StatusCode::OK, "application/octet-stream", file.content.clone());
    let reply = reply.with_header(CONTENT_DISPOSITION, disposition);
    let reply = reply.with_header(CONTENT_SECURITY_POLICY, MAIL_POLICY);
    Ok(unkept(reply.with_header(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"))))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::email::letter::{Attachment, Letter};

    fn mail() -> KeptMail {
        let letter = Letter {
            id: MailId(Uuid::nil()),
            to: "o'neil<b>@example.com".to_owned(),
            subject: "<script>alert(1)</script>".to_owned(),
            text: "See https://shop.example/?a=1&b='2\n<img src=x>\njavascript:alert(1)".to_owned(),
            html: Some("<p>Hello</p>".to_owned()),
            attachments: vec![Attachment {
                name: "\"><i>.csv".to_owned(),
                content_type: "text/csv".to_owned(),
                content: "a".into(),
            }],
        };
        KeptMail { at: Timestamp(0), plugin: Some("items".parse().unwrap()), letter }
    }

    #[test]
    fn no_text_of_a_mail_becomes_markup_of_the_page() {
        let mail = Arc::new(mail());
        for html in [view(&mail), list(std::slice::from_ref(&mail))] {
            for tag in ["<script", "<b>", "<i>", "<img", "href=\"javascript"] {
                assert!(!html.contains(tag), "{tag} in {html}");
            }
            assert!(html.contains("&lt;script&gt;") && html.contains("items"), "{html}");
        }
        assert!(
            view(&mail).contains("<iframe src=\"/dev/mail/00000000-0000-0000-0000-000000000000/html\" sandbox=\"\"")
        );
        let link = "<a href=\"https://shop.example/?a=1&amp;b=\" target=\"_blank\" rel=\"noopener noreferrer\">";
        assert!(view(&mail).contains(link), "{}", view(&mail));
        assert_eq!(linked("a\nb "), "a\nb ");
    }

    #[test]
    fn only_this_machine_under_a_name_of_its_own_sees_the_mails() {
        let local = |address: &str, pairs: &[(&'static str, &'static str)], believes_proxy| {
            let pairs = pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
            is_local(address.parse().unwrap(), &pairs.collect::<HeaderMap>(), believes_proxy)
        };
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "app.localhost"] {
            assert!(local("127.0.0.1", &[("host", host)], false), "{host}");
        }
        assert!(local("::1", &[("host", "localhost")], false));
        for host in ["evil.example:8000", "localhost.evil.example", "192.168.0.1", "127.0.0.1.evil.example"] {
            assert!(!local("127.0.0.1", &[("host", host)], false), "{host}");
        }
        assert!(!local("127.0.0.1", &[], false) && !local("192.168.0.7", &[("host", "localhost")], false));
        for name in ["x-forwarded-for", "forwarded", "x-real-ip", "via", "x-forwarded-host"] {
            let passed_on = [("host", "localhost"), (name, "203.0.113.9")];
            assert!(!local("127.0.0.1", &passed_on, false) && local("127.0.0.1", &passed_on, true), "{name}");
        }
    }
}
