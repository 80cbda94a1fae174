//! Compilation of components to machine code, without risk for this process.
//!
//! Compiling an uploaded file can take any amount of memory and time, so a child process does it, within limits
//! ([`child`], [`program`]). wasmtime trusts machine code when it loads it, so this host loads only code that came from
//! that child or that carries this host's own MAC ([`code_cache`]). A component is looked up in memory, then in the
//! code cache, then compiled in the child; the result goes back into both. Machine code of the code cache is mapped, so
//! that it takes memory only where it is used. Never decides whether a component may be deployed.

mod child;
mod code_cache;
pub mod confinement;
mod fingerprint;
mod machine_code;
pub mod program;

use std::collections::HashSet;
use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use bytes::Bytes;
use wasmtime::Engine;
use wasmtime::component::Component;

use self::child::ChildCompiler;
use self::code_cache::{CodeCache, Sizes};
use self::confinement::Confinement;
use self::fingerprint::Fingerprint;
use self::machine_code::MachineCode;
use super::artifact::{Artifact, Digest, check_structure, invalid, printable};
use super::engine::{self, PluginEngine};
use super::shortage::{self, lacks_resources};
use crate::capability::Boot;
use crate::config;
use crate::error::{Error, Result};

/// The maximum number of compiled components in memory that no release uses. Each has mappings and a file descriptor.
const RECENT: u64 = 4;

/// The machine code of one component may take one part in this many of the compile memory. This process holds the
/// output of the child, and has no other limit for it.
const MACHINE_CODE_PART: u64 = 4;

/// The size of the cache for compiles in this process, in bytes of machine code.
const IN_PROCESS_BYTES: u64 = 256 * 1024 * 1024;

/// Where components are compiled.
#[derive(Debug, Clone)]
pub enum Compile {
    /// In a child process of this program, which must be `wharf`.
    Child(PathBuf),
    /// In this process and without limits, for tests, whose program is not `wharf`.
    InProcess(InProcessCompiler),
}

impl Compile {
    /// Compiles in this process. Hosts with clones of the returned value share its compiled components.
    ///
    /// # Errors
    /// The settings do not fit this machine.
    pub fn in_process() -> Result<Self> {
        Self::in_process_with(|_| ())
    }

    /// Compiles in this process with changed settings that leave the meaning of the machine code as it is, such as a cache
    /// of functions.
    ///
    /// # Errors
    /// The settings do not fit this machine.
    pub fn in_process_with(change: impl FnOnce(&mut wasmtime::Config)) -> Result<Self> {
        let engine = engine::compiling_with(change)?;
        let weight = |_: &Digest, code: &Arc<MachineCode>| u32::try_from(code.len()).unwrap_or(u32::MAX);
        let compiled = moka::sync::Cache::builder().max_capacity(IN_PROCESS_BYTES).weigher(weight).build();
        Ok(Self::InProcess(InProcessCompiler { engine, compiled }))
    }
}

impl Default for Compile {
    /// Compiles in a child process of the running program.
    fn default() -> Self {
        // On Linux, the running program and not the one that an upgrade may have put in its place.
        let running = "/proc/self/exe";
        let elsewhere = || std::env::current_exe().unwrap_or_else(|_| running.into());
        Self::Child(if cfg!(target_os = "linux") { running.into() } else { elsewhere() })
    }
}

/// Compiles in this process and remembers the machine code. All engines of a process have the same [`fingerprint`].
#[derive(Clone)]
pub struct InProcessCompiler {
    engine: Engine,
    compiled: moka::sync::Cache<Digest, Arc<MachineCode>>,
}

impl InProcessCompiler {
    fn compile(&self, digest: Digest, component: &[u8]) -> Result<Arc<MachineCode>> {
        let compile = || self.engine.precompile_component(component).map(|code| Arc::new(MachineCode::trusted(code)));
        self.compiled.try_get_with(digest, compile).map_err(|error| refusal(&error))
    }
}

impl fmt::Debug for InProcessCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessCompiler").finish_non_exhaustive()
    }
}

/// Compiles a component in a child process without any cache, for the inspection of a file without a host.
///
/// # Errors
/// As [`Compiler::artifact`].
pub(super) async fn once(engine: &PluginEngine, limits: &config::Plugins, component: Bytes) -> Result<Artifact> {
    check_structure(&component)?;
    let (digest, size) = (Digest::of(&component), component.len());
    let Compile::Child(program) = Compile::default() else { return Err(Error::internal("no compiler")) };
    let child = ChildCompiler::new(program, limits, limits.compile_memory_bytes / MACHINE_CODE_PART);
    let machine_code = child.compile(&digest, component).await?;
    let engine = engine.wasmtime().clone();
    let loaded = run_blocking(move || machine_code.load(&engine).map_err(not_loaded)).await??;
    Artifact::new(loaded, digest, size)
}

/// The place where components are compiled.
enum Backend {
    Child(Arc<ChildCompiler>),
    InProcess(InProcessCompiler),
}

/// Compiles components, and caches the results in memory and on disk.
pub(super) struct Compiler {
    engine: Engine,
    backend: Backend,
    cache: Arc<CodeCache>,
    /// The latest components, so that a change of grants or limits loads nothing.
    recent: moka::sync::Cache<Digest, Artifact>,
    /// Held while cached machine code is loaded, which takes memory and CPU time: at most one for each CPU.
    loading: tokio::sync::Semaphore,
    /// Held during a compile, because the limits are for all compiles together.
    compiling: tokio::sync::Mutex<()>,
}

impl Compiler {
    /// Opens the code cache in the data directory.
    ///
    /// # Errors
    /// The code cache cannot be opened.
    pub(super) fn open(engine: &PluginEngine, boot: &Boot, compile: Compile) -> Result<Self> {
        let engine = engine.wasmtime().clone();
        let limits = &boot.config.plugins;
        let machine_code = limits.compile_memory_bytes / MACHINE_CODE_PART;
        let compatibility = Fingerprint::of(&engine.precompile_compatibility_hash());
        let sizes = Sizes { file: machine_code, cache: limits.code_cache_bytes };
        let cache = CodeCache::open(&boot.config.server.data_dir, compatibility, sizes, &boot.random)?;
        let backend = match compile {
            Compile::Child(program) => {
                let child = Arc::new(ChildCompiler::new(program, limits, machine_code));
                tokio::spawn(log_confinement(Arc::clone(&child)));
                Backend::Child(child)
            }
            Compile::InProcess(compiler) => {
                if Fingerprint::of(&compiler.engine.precompile_compatibility_hash()) != compatibility {
                    return Err(Error::internal("the compiler has settings that machine code depends on"));
                }
                Backend::InProcess(compiler)
            }
        };
        Ok(Self {
            engine,
            backend,
            cache: Arc::new(cache),
            recent: moka::sync::Cache::builder().max_capacity(RECENT).build(),
            loading: tokio::sync::Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get)),
            compiling: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the compiled component of a file, which has this digest.
    ///
    /// # Errors
    /// It is not a component that this host can run, or its compile hits a limit.
    pub(super) async fn artifact(&self, digest: &Digest, component: Bytes) -> Result<Artifact> {
        check_structure(&component)?;
        if let Some(artifact) = self.recent.get(digest) {
            return Ok(artifact);
        }
        let size = component.len();
        // A component from the code cache does not wait for other compiles.
        let loaded = match self.load_cached(digest).await? {
            Some(loaded) => loaded,
            None => {
                let _compiling = self.compiling.lock().await;
                // The compile before this one may have been of the same component.
                match self.load_cached(digest).await? {
                    Some(loaded) => loaded,
                    None => self.compile(digest, component).await?,
                }
            }
        };
        let artifact = Artifact::new(loaded, digest.clone(), size)?;
        self.remember(digest, &artifact);
        Ok(artifact)
    }

    fn remember(&self, digest: &Digest, artifact: &Artifact) {
        self.recent.insert(digest.clone(), artifact.clone());
        // Otherwise the cache may keep what it evicted for a while.
        self.recent.run_pending_tasks();
    }

    /// Returns the compiled component of a file that was compiled before, if its machine code is still cached. Needs no
    /// component, and checks nothing that was checked then.
    ///
    /// # Errors
    /// This host cannot run the component any more.
    pub(super) async fn cached(&self, digest: &Digest, size: usize) -> Result<Option<Artifact>> {
        if let Some(artifact) = self.recent.get(digest) {
            return Ok(Some(artifact));
        }
        let _loading = self.loading.acquire().await.map_err(Error::internal)?;
        let Some(loaded) = self.load_cached(digest).await? else { return Ok(None) };
        let artifact = Artifact::new(loaded, digest.clone(), size)?;
        self.remember(digest, &artifact);
        Ok(Some(artifact))
    }

    /// Returns whether the machine code of a file seems to be cached, without reading it.
    pub(super) async fn is_cached(&self, digest: &Digest) -> bool {
        if self.recent.contains_key(digest) {
            return true;
        }
        let (cache, digest) = (Arc::clone(&self.cache), digest.clone());
        run_blocking(move || cache.contains(&digest)).await.unwrap_or(false)
    }

    /// Returns a function that tells whether the machine code of a file seems to be on disk. It is for a blocking thread.
    pub(super) fn disk_check(&self) -> impl Fn(&Digest) -> bool + Send + use<> {
        let cache = Arc::clone(&self.cache);
        move |digest: &Digest| cache.contains(digest)
    }

    /// Returns whether the code cache has grown enough to be trimmed.
    pub(super) fn needs_trim(&self) -> bool {
        self.cache.needs_trim()
    }

    /// Removes machine code beyond the size of the code cache, the least recently used first, and never that of
    /// `in_use`.
    pub(super) async fn trim(&self, in_use: HashSet<String>) -> Result<()> {
        let cache = Arc::clone(&self.cache);
        run_blocking(move || cache.trim(|digest| in_use.contains(digest))).await
    }

    async fn load_cached(&self, digest: &Digest) -> Result<Option<Component>> {
        let (engine, cache, digest) = (self.engine.clone(), Arc::clone(&self.cache), digest.clone());
        run_blocking(move || load_cached(&cache, &engine, &digest)).await?
    }

    async fn compile(&self, digest: &Digest, component: Bytes) -> Result<Component> {
        let (engine, cache, kept_as) = (self.engine.clone(), Arc::clone(&self.cache), digest.clone());
        let machine_code = match &self.backend {
            Backend::Child(child) => Arc::new(child.compile(digest, component).await?),
            Backend::InProcess(compiled) => {
                let (compiled, digest) = (compiled.clone(), digest.clone());
                run_blocking(move || compiled.compile(digest, &component)).await??
            }
        };
        run_blocking(move || store_and_load(&cache, &engine, &kept_as, &machine_code)).await?
    }
}

/// Loads machine code from the code cache, if it is there and unchanged. It is mapped if the system allows that, and copied
/// otherwise.
///
/// # Errors
/// 503: the system lacks memory, mappings or file descriptors. The file stays.
fn load_cached(cache: &CodeCache, engine: &Engine, digest: &Digest) -> Result<Option<Component>> {
    let Some(file) = cache.take(digest).map_err(shortage::unavailable)? else { return Ok(None) };
    let not_mapped = match file.map(engine) {
        Ok(component) => return Ok(Some(component)),
        // A copy needs no less.
        Err(error) if lacks_resources(&error) => return Err(shortage::unavailable(error)),
        Err(error) => error,
    };
    let Some(copy) = cache.take_copy(digest).map_err(shortage::unavailable)? else { return Ok(None) };
    match copy.load(engine) {
        Ok(component) => {
            warn_not_mapped(&not_mapped);
            Ok(Some(component))
        }
        Err(error) if lacks_resources(&error) => Err(shortage::unavailable(error)),
        Err(error) => {
            // Its MAC is right, so this is not an attack. For example, the instance pool may be smaller now.
            let reason = format!("it does not load: {error:#}");
            cache.discard(digest, &reason);
            Ok(None)
        }
    }
}

/// Stores machine code that was just compiled in the code cache, and loads it: mapped, because then it takes no memory of its
/// own, and copied if that fails. The code cache does not keep machine code that never loads.
///
/// # Errors
/// As [`not_loaded`].
fn store_and_load(cache: &CodeCache, engine: &Engine, digest: &Digest, code: &MachineCode) -> Result<Component> {
    cache.put(digest, code);
    let file = cache.take(digest).ok().flatten();
    let not_mapped = match file.map(|file| file.map(engine)) {
        Some(Ok(component)) => return Ok(component),
        Some(Err(error)) => Some(error),
        // It was not stored.
        None => None,
    };
    match code.load(engine) {
        Ok(component) => {
            if let Some(error) = not_mapped.filter(|error| !lacks_resources(error)) {
                warn_not_mapped(&error);
            }
            Ok(component)
        }
        Err(error) => {
            if !lacks_resources(&error) {
                cache.remove(digest);
            }
            Err(not_loaded(error))
        }
    }
}

/// Logs once that machine code is copied, although the system has the resources to map it.
fn warn_not_mapped(error: &wasmtime::Error) {
    static NOT_MAPPED: Once = Once::new();
    NOT_MAPPED.call_once(|| {
        let error = format!("{error:#}");
        tracing::warn!(error, "machine code cannot be mapped from the data directory; each plugin takes more memory");
    });
}

/// Logs what the kernel does for the confinement of the compiler.
async fn log_confinement(child: Arc<ChildCompiler>) {
    match child.confinement().await {
        Ok(holds) if holds.is_complete() => tracing::info!("the kernel confines the compiler: no files, no network"),
        Ok(Confinement { landlock, seccomp }) => tracing::warn!(
            landlock,
            seccomp,
            "the kernel or the container lacks a means to confine the compiler; its limits of memory and time hold"
        ),
        Err(error) => tracing::warn!(%error, "the confinement of the compiler is not known"),
    }
}

/// Returns the refusal of a component that the compiler rejected.
fn refusal(error: &wasmtime::Error) -> Error {
    invalid(format!("it does not compile: {}", printable(&format!("{error:#}"))))
}

/// Returns the error for machine code that was compiled and does not load. The component is at fault, unless the system
/// lacks resources.
fn not_loaded(error: wasmtime::Error) -> Error {
    if lacks_resources(&error) { shortage::unavailable(error) } else { refusal(&error) }
}

/// Runs work on a blocking thread, because reading files and loading machine code would hold up requests.
async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("the compiler panicked").with_source(error))
}
