//! Outgoing requests (`wharf::egress`), without a plugin: the SSRF filter, and hostile servers. All traffic stays on
//! 127.0.0.1; any other address is denied before a connection is opened.

mod hostile_servers;
mod message;
mod redirects;
mod ssrf_filter;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use wharf::clock::Random;
use wharf::egress::{
    Allowlist, Egress, EgressEnvironment, EgressLimits, Failure, ReleaseEgress, Report, Request, Resolver, Response,
    Roots,
};
use wharf::egress::{Trace, trace};

use crate::support::patience::PATIENCE;

/// A fake resolver. Each lookup takes the next result, and the last result is repeated.
#[derive(Clone, Default)]
struct FakeDns {
    results: Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>,
    lookups: Arc<Mutex<Vec<String>>>,
}

impl FakeDns {
    fn of(names: &[(&str, &[&[&str]])]) -> Self {
        let read = |result: &&[&str]| result.iter().map(|address| address.parse().unwrap()).collect();
        let results = names.iter().map(|(name, results)| ((*name).to_owned(), results.iter().map(read).collect()));
        Self { results: Arc::new(Mutex::new(results.collect())), lookups: Arc::default() }
    }

    fn resolver(&self) -> Resolver {
        let names = self.clone();
        Resolver::new(move |name| {
            let result = names.resolve(name);
            async move { result.ok_or_else(|| std::io::Error::other("no such name")) }
        })
    }

    fn resolve(&self, name: String) -> Option<Vec<IpAddr>> {
        let mut results = self.results.lock().unwrap();
        let result = results.get_mut(&name);
        self.lookups.lock().unwrap().push(name);
        let results = result?;
        Some(if results.len() > 1 { results.remove(0) } else { results[0].clone() })
    }

    fn lookups(&self) -> usize {
        self.lookups.lock().unwrap().len()
    }
}

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

fn generous_limits() -> EgressLimits {
    EgressLimits { time: PATIENCE, connect: PATIENCE, ..EgressLimits::default() }
}

struct EgressClient {
    egress: Egress,
    release: Arc<ReleaseEgress>,
}

impl EgressClient {
    fn new(names: &FakeDns, roots: Roots, hosts: &[&str], networks: &[&str], limits: EgressLimits) -> Self {
        let environment = EgressEnvironment { resolver: names.resolver(), roots };
        let egress = Egress::new(environment, Random::Sequence(Arc::default()));
        let release = release(&egress, hosts, networks, limits);
        Self { egress, release }
    }

    /// Returns a client that may reach the given servers on loopback.
    fn to(hosts: &[&str]) -> Self {
        Self::new(&FakeDns::default(), Roots::Only(Vec::new()), hosts, LOOPBACK, generous_limits())
    }

    fn within(hosts: &[&str], limits: EgressLimits) -> Self {
        Self::new(&FakeDns::default(), Roots::Only(Vec::new()), hosts, LOOPBACK, limits)
    }

    async fn send(&self, request: Request) -> Result<Response, Failure> {
        send(&self.release, request).await
    }

    async fn get(&self, url: &str) -> Result<Response, Failure> {
        self.send(get(url)).await
    }
}

fn release(egress: &Egress, hosts: &[&str], networks: &[&str], limits: EgressLimits) -> Arc<ReleaseEgress> {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Arc::new(egress.release(&"test".parse().unwrap(), Allowlist { hosts, networks }, limits))
}

async fn send(release: &ReleaseEgress, request: Request) -> Result<Response, Failure> {
    let trace: Trace = trace::Trace::begin(None, &Random::System).unwrap();
    release.send(request, &trace, &mut (), &mut Report::default()).await
}

fn get(url: &str) -> Request {
    Request { method: "GET".to_owned(), url: url.to_owned(), ..Request::default() }
}

fn port(addr: SocketAddr) -> u16 {
    addr.port()
}

/// Returns the reason of a denied request.
fn denied_reason(outcome: Result<Response, Failure>) -> String {
    match outcome {
        Err(Failure::Denied(reason)) => reason,
        other => panic!("not denied: {other:?}"),
    }
}
