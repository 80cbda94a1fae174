//! Outgoing requests (`wharf::egress`), without a plugin: who may be reached, and what a hostile server can do. All traffic stays
//! on 127.0.0.1; any other address is one that is refused before a connection is made.

mod hostile_servers;
mod message;
mod redirects;
mod ssrf_filter;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use wharf::clock::Random;
use wharf::egress::{
    Allowed, Egress, Failure, Limits, Outside, ReleaseEgress, Report, Request, Resolver, Response, Roots,
};
use wharf::egress::{Trace, trace};

/// Who answers for names; each look-up takes the next answer, and the last one stays.
#[derive(Clone, Default)]
struct FakeDns {
    answers: Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl FakeDns {
    fn of(names: &[(&str, &[&[&str]])]) -> Self {
        let read = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        let answers = names.iter().map(|(name, answers)| ((*name).to_owned(), answers.iter().map(read).collect()));
        Self { answers: Arc::new(Mutex::new(answers.collect())), asked: Arc::default() }
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::new(move |name| {
            let answer = names.answer(name);
            async move { answer.ok_or_else(|| std::io::Error::other("no such name")) }
        })
    }

    fn answer(&self, name: String) -> Option<Vec<IpAddr>> {
        let mut answers = self.answers.lock().unwrap();
        let answer = answers.get_mut(&name);
        self.asked.lock().unwrap().push(name);
        let answers = answer?;
        Some(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

/// Short enough for a test of what hangs, long enough for a busy machine where nothing does.
fn generous_limits() -> Limits {
    Limits { time: Duration::from_secs(20), connect: Duration::from_secs(10), ..Limits::default() }
}

struct EgressClient {
    egress: Egress,
    release: Arc<ReleaseEgress>,
}

impl EgressClient {
    fn new(names: &FakeDns, roots: Roots, hosts: &[&str], networks: &[&str], limits: Limits) -> Self {
        let outside = Outside { resolver: names.resolver(), roots };
        let egress = Egress::new(outside, Random::Sequence(Arc::default()));
        let release = release(&egress, hosts, networks, limits);
        Self { egress, release }
    }

    /// To servers on loopback.
    fn to(hosts: &[&str]) -> Self {
        Self::new(&FakeDns::default(), Roots::Only(Vec::new()), hosts, LOOPBACK, generous_limits())
    }

    fn within(hosts: &[&str], limits: Limits) -> Self {
        Self::new(&FakeDns::default(), Roots::Only(Vec::new()), hosts, LOOPBACK, limits)
    }

    async fn send(&self, request: Request) -> Result<Response, Failure> {
        send(&self.release, request).await
    }

    async fn get(&self, url: &str) -> Result<Response, Failure> {
        self.send(get(url)).await
    }
}

fn release(egress: &Egress, hosts: &[&str], networks: &[&str], limits: Limits) -> Arc<ReleaseEgress> {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Arc::new(egress.release(&"test".parse().unwrap(), Allowed { hosts, networks }, limits))
}

async fn send(release: &ReleaseEgress, request: Request) -> Result<Response, Failure> {
    let trace: Trace = trace::Trace::begin("start", &Random::System).unwrap();
    release.send(request, &trace, &mut (), &mut Report::default()).await
}

fn get(url: &str) -> Request {
    Request { method: "GET".to_owned(), url: url.to_owned(), ..Request::default() }
}

fn port(addr: SocketAddr) -> u16 {
    addr.port()
}

/// What is told of a refusal by the grant.
fn denied(outcome: Result<Response, Failure>) -> String {
    match outcome {
        Err(Failure::Denied(reason)) => reason,
        other => panic!("not denied: {other:?}"),
    }
}
