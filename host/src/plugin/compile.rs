//! From a component to machine code, without the risk that either brings to this process.
//!
//! Compiling what somebody uploaded can take any memory and time, so a child process does it, within limits
//! ([`child`], [`program`]). Machine code is believed to the letter when it is loaded, so nothing is loaded but what came
//! from that child or bears this host's own mark ([`code_cache`]). One way through: memory → cache → child; the outcome goes
//! back into both. Never decides whether a component may be deployed: that is `deploy`'s business.

mod child;
mod code_cache;
mod fingerprint;
pub mod program;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::Engine;
use wasmtime::component::Component;

use self::child::Child;
use self::code_cache::CodeCache;
use self::fingerprint::Fingerprint;
use super::artifact::{Artifact, Digest, check_structure, invalid, printable};
use super::engine::PluginEngine;
use crate::capability::Boot;
use crate::config;
use crate::error::{Error, Result};

/// How much is kept in memory beyond what is live, in bytes of the files; machine code takes about three times as much.
const KEPT_BYTES: u64 = 32 * 1024 * 1024;

/// The machine code of one component may be this part of the memory in which it was compiled. What the child writes is
/// held by this process, which has no other limit.
const MACHINE_CODE_PART: u64 = 4;

/// What is remembered of compiles in this process, in bytes of machine code.
const COMPILED_BYTES: u64 = 256 * 1024 * 1024;

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compile {
    /// In a process of this program, which is `wharf`.
    Child(PathBuf),
    /// In this process: without limits, for tests whose program is another.
    InProcess(Compiled),
}

impl Compile {
    /// In this process; hosts that get clones of this compile a component once for all of them.
    pub fn in_process() -> Self {
        let weight = |_: &Digest, code: &Arc<MachineCode>| u32::try_from(code.0.len()).unwrap_or(u32::MAX);
        Self::InProcess(Compiled(moka::sync::Cache::builder().max_capacity(COMPILED_BYTES).weigher(weight).build()))
    }
}

impl Default for Compile {
    /// In a process of the program that runs.
    fn default() -> Self {
        // On Linux, what runs rather than what an upgrade has meanwhile put into its place.
        let running = "/proc/self/exe";
        let elsewhere = || std::env::current_exe().unwrap_or_else(|_| running.into());
        Self::Child(if cfg!(target_os = "linux") { running.into() } else { elsewhere() })
    }
}

/// Machine code of what was compiled in this process. All engines of a process agree on it: see [`fingerprint`].
#[derive(Clone)]
pub struct Compiled(moka::sync::Cache<Digest, Arc<MachineCode>>);

impl Compiled {
    fn compile(&self, engine: &Engine, digest: Digest, component: &[u8]) -> Result<Arc<MachineCode>> {
        let compile = || engine.precompile_component(component).map(|code| Arc::new(MachineCode(code)));
        self.0.try_get_with(digest, compile).map_err(|error| refusal(&error))
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled").finish_non_exhaustive()
    }
}

/// Machine code that this host may load: it came from the compiler, or from the cache with this host's mark.
pub(super) struct MachineCode(Vec<u8>);

impl MachineCode {
    #[allow(unsafe_code, reason = "wasmtime believes machine code to the letter; this type is the proof that it may")]
    fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: the bytes are unmodified output of `Engine::precompile_component`. They come either from a child that
        // is this same program, through a pipe that nobody else holds, or from a file whose HMAC was checked over these
        // very bytes, so that whoever writes to the file afterwards changes nothing.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}

/// A compiled component that nobody keeps, for a look at a file without a host: compiled in a child all the same.
///
/// # Errors
/// As [`Compiler::artifact`].
pub(super) async fn once(engine: &PluginEngine, limits: &config::Plugins, component: Bytes) -> Result<Artifact> {
    check_structure(&component)?;
    let (digest, size) = (Digest::of(&component), component.len());
    let Compile::Child(program) = Compile::default() else { return Err(Error::internal("no compiler")) };
    let child = Child::new(program, limits, limits.compile_memory_bytes / MACHINE_CODE_PART);
    let machine_code = child.compile(&digest, component).await?;
    let engine = engine.wasmtime().clone();
    let loaded = aside(move || machine_code.load(&engine).map_err(|error| refusal(&error))).await??;
    Artifact::new(loaded, digest, size)
}

/// Who compiles.
enum Worker {
    Child(Child),
    InProcess(Compiled),
}

/// Compiles components, and remembers what it compiled.
pub(super) struct Compiler {
    engine: Engine,
    worker: Worker,
    cache: Arc<CodeCache>,
    /// Lately used ones, so that going back to an earlier file loads nothing.
    kept: moka::sync::Cache<Digest, Artifact>,
    /// One at a time: the limits are for all that is compiled.
    turn: tokio::sync::Mutex<()>,
}

impl Compiler {
    /// Opens the cache in the data directory.
    ///
    /// # Errors
    /// The cache cannot be had.
    pub(super) fn open(engine: &PluginEngine, boot: &Boot, compile: Compile) -> Result<Self> {
        let engine = engine.wasmtime().clone();
        let limits = &boot.config.plugins;
        let machine_code = limits.compile_memory_bytes / MACHINE_CODE_PART;
        let compatibility = Fingerprint::of(&engine.precompile_compatibility_hash());
        let cache = CodeCache::open(&boot.config.server.data_dir, compatibility, machine_code, &boot.random)?;
        let worker = match compile {
            Compile::Child(program) => Worker::Child(Child::new(program, limits, machine_code)),
            Compile::InProcess(compiled) => Worker::InProcess(compiled),
        };
        Ok(Self {
            engine,
            worker,
            cache: Arc::new(cache),
            kept: moka::sync::Cache::builder()
                .max_capacity(KEPT_BYTES)
                .weigher(|_, artifact: &Artifact| u32::try_from(artifact.size).unwrap_or(u32::MAX))
                .build(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// The compiled component of a file, which has this digest.
    ///
    /// # Errors
    /// It is not a component that this host can run, or takes more than it may to compile.
    pub(super) async fn artifact(&self, digest: &Digest, component: Bytes) -> Result<Artifact> {
        check_structure(&component)?;
        if let Some(artifact) = self.kept.get(digest) {
            return Ok(artifact);
        }
        let size = component.len();
        // Going back to what was compiled once waits for nobody who compiles.
        let loaded = match self.shelved(digest).await? {
            Some(loaded) => loaded,
            None => {
                let _turn = self.turn.lock().await;
                // Whoever had the turn before may have compiled it.
                match self.shelved(digest).await? {
                    Some(loaded) => loaded,
                    None => self.compiled(digest, component).await?,
                }
            }
        };
        let artifact = Artifact::new(loaded, digest.clone(), size)?;
        self.kept.insert(digest.clone(), artifact.clone());
        Ok(artifact)
    }

    async fn shelved(&self, digest: &Digest) -> Result<Option<Component>> {
        let (engine, cache, digest) = (self.engine.clone(), Arc::clone(&self.cache), digest.clone());
        aside(move || {
            let machine_code = cache.take(&digest)?;
            match machine_code.load(&engine) {
                Ok(component) => Some(component),
                Err(error) => {
                    // Its mark is right, so this is no attack: a pool that was made smaller, for one.
                    let reason = format!("it does not load: {error:#}");
                    cache.discard(&digest, &reason);
                    None
                }
            }
        })
        .await
    }

    async fn compiled(&self, digest: &Digest, component: Bytes) -> Result<Component> {
        let (engine, cache, kept_as) = (self.engine.clone(), Arc::clone(&self.cache), digest.clone());
        let machine_code = match &self.worker {
            Worker::Child(child) => Arc::new(child.compile(digest, component).await?),
            Worker::InProcess(compiled) => {
                let (engine, compiled, digest) = (engine.clone(), compiled.clone(), digest.clone());
                aside(move || compiled.compile(&engine, digest, &component)).await??
            }
        };
        aside(move || {
            let loaded = machine_code.load(&engine).map_err(|error| refusal(&error))?;
            cache.put(&kept_as, &machine_code);
            Ok(loaded)
        })
        .await?
    }
}

/// A component that the compiler does not take.
fn refusal(error: &wasmtime::Error) -> Error {
    invalid(format!("it does not compile: {}", printable(&format!("{error:#}"))))
}

/// Files and machine code keep a thread busy for a while; not one that answers requests.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("the compiler panicked").with_source(error))
}
