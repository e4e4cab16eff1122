//! The procedures this driver uses, as typed calls on a connection that comes back when the daemon restarts.
//!
//! Procedure numbers, flags and state numbers are facts of libvirt's stable remote protocol and public API.

mod guest_agents;
mod secrets;

pub use secrets::SecretRef;

use super::rpc::{Connection, RpcError};
use super::xdr::{Decoder, Encoder, Malformed};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use types::{PowerState, ServerId};
use uuid::Uuid;

mod procedure {
    pub const OPEN: u32 = 1;
    pub const GET_VERSION: u32 = 4;
    pub const NODE_GET_INFO: u32 = 6;
    pub const GET_CAPABILITIES: u32 = 7;
    pub const DOMAIN_GET_XML_DESC: u32 = 14;
    pub const DOMAIN_GET_INFO: u32 = 16;
    pub const DOMAIN_RESUME: u32 = 28;
    pub const DOMAIN_SUSPEND: u32 = 34;
    pub const GET_HOSTNAME: u32 = 59;
    pub const AUTH_LIST: u32 = 66;
    pub const SECRET_DEFINE: u32 = 142;
    pub const SECRET_SET_VALUE: u32 = 144;
    pub const SECRET_GET_VALUE: u32 = 145;
    pub const SECRET_UNDEFINE: u32 = 146;
    pub const SECRET_LOOKUP_BY_USAGE: u32 = 147;
    pub const GET_LIB_VERSION: u32 = 157;
    pub const DOMAIN_CREATE_WITH_FLAGS: u32 = 196;
    pub const DOMAIN_ATTACH_DEVICE_FLAGS: u32 = 160;
    pub const DOMAIN_DETACH_DEVICE_FLAGS: u32 = 161;
    pub const DOMAIN_GET_JOB_INFO: u32 = 163;
    pub const DOMAIN_ABORT_JOB: u32 = 164;
    pub const DOMAIN_INJECT_NMI: u32 = 210;
    pub const DOMAIN_UNDEFINE_FLAGS: u32 = 231;
    pub const DOMAIN_SAVE_FLAGS: u32 = 232;
    pub const DOMAIN_RESTORE_FLAGS: u32 = 233;
    pub const DOMAIN_DESTROY_FLAGS: u32 = 234;
    pub const DOMAIN_BLOCK_JOB_ABORT: u32 = 237;
    pub const DOMAIN_GET_BLOCK_JOB_INFO: u32 = 238;
    pub const DOMAIN_SHUTDOWN_FLAGS: u32 = 258;
    pub const DOMAIN_MIGRATE_PERFORM3_PARAMS: u32 = 305;
    pub const EVENT_REGISTER: u32 = 316;
    pub const EVENT_LIFECYCLE: u32 = 318;
    pub const GET_DOMAIN_CAPABILITIES: u32 = 342;
    pub const GET_ALL_DOMAIN_STATS: u32 = 344;
    pub const DOMAIN_FSFREEZE: u32 = 335;
    pub const DOMAIN_FSTHAW: u32 = 336;
    pub const DOMAIN_BLOCK_COPY: u32 = 345;
    pub const DOMAIN_DEFINE_XML_FLAGS: u32 = 350;
    pub const DOMAIN_SET_USER_PASSWORD: u32 = 357;
    pub const DOMAIN_MIGRATE_START_POST_COPY: u32 = 364;
    pub const COMPARE_HYPERVISOR_CPU: u32 = 393;
    pub const DOMAIN_AGENT_SET_RESPONSE_TIMEOUT: u32 = 420;
}

/// libvirt's numbers for errors that are told apart.
pub mod error_code {
    /// No domain with this UUID.
    pub const NO_DOMAIN: u32 = 42;
    /// The verb does not fit the domain's state (start when it runs, destroy when it is off).
    pub const OPERATION_INVALID: u32 = 55;
    /// No secret of this id, or for this usage.
    pub const NO_SECRET: u32 = 66;
    /// A job was called off.
    pub const OPERATION_ABORTED: u32 = 78;
    /// The agent in the guest does not answer.
    pub const AGENT_UNRESPONSIVE: u32 = 86;
    /// A processor has what the host's has not.
    pub const CPU_INCOMPATIBLE: u32 = 91;
}

/// How a domain is sent to another host.
pub mod migration {
    use crate::passage::LiveChoices;

    const LIVE: u32 = 1;
    const PEER_TO_PEER: u32 = 2;
    const PAUSED: u32 = 32;
    /// Disks are copied as far as they differ from what they are overlays of.
    const NON_SHARED_INCREMENTAL: u32 = 128;
    /// Nobody else changes the domain meanwhile.
    const CHANGE_PROTECTION: u32 = 256;
    /// Volumes need not be on a file system that libvirt knows to be shared.
    const UNSAFE: u32 = 512;
    /// A guest that changes memory faster than it can be sent is slowed down.
    const AUTO_CONVERGE: u32 = 8192;
    /// It can be let go on there before all of its memory is there, by [`super::Link::start_post_copy`].
    const POST_COPY: u32 = 32768;

    /// The flags of a move. A guest that stands still changes nothing: it needs neither of the choices.
    pub fn flags(copies_disks: bool, paused: bool, choices: LiveChoices) -> u32 {
        let when = |so: bool, flag: u32| if so { flag } else { 0 };
        let post_copy = choices.post_copy && !paused;
        let slowed = choices.auto_converge && !paused && !post_copy;
        LIVE | PEER_TO_PEER
            | CHANGE_PROTECTION
            | UNSAFE
            | when(slowed, AUTO_CONVERGE)
            | when(post_copy, POST_COPY)
            | when(copies_disks, NON_SHARED_INCREMENTAL)
            | when(paused, PAUSED)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn post_copy_goes_before_auto_converge_and_paused_guests_need_neither() {
            let choices = |auto_converge, post_copy| LiveChoices {
                auto_converge,
                post_copy,
            };
            const BASE: u32 = 1 | 2 | 256 | 512;
            for (paused, chosen, wanted) in [
                (false, choices(false, false), BASE),
                (false, choices(true, false), BASE | 8192),
                (false, choices(false, true), BASE | 32768),
                (false, choices(true, true), BASE | 32768),
                (true, choices(true, true), BASE | 32),
            ] {
                assert_eq!(flags(false, paused, chosen), wanted, "{paused} {chosen:?}");
            }
            assert_eq!(flags(true, false, choices(false, false)), BASE | 128);
        }
    }
}

/// A typed parameter of a call.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a> {
    /// A text.
    Text(&'a str),
}

/// How a disk is mirrored.
mod block_copy {
    /// Onto what is there.
    const REUSE: u32 = 2;
    /// The job ends with the domain's process, and the domain's definition does not know of it.
    pub const TRANSIENT_JOB: u32 = 4;
    /// Since libvirt 8.0.
    const SYNCHRONOUS_WRITES: u32 = 8;
    pub const ONTO: u32 = REUSE | TRANSIENT_JOB | SYNCHRONOUS_WRITES;
}

/// What to ask of [`Link::stats`].
pub mod stats {
    /// State and reason.
    pub const STATE: u32 = 1;
    /// State, processor, memory, virtual CPU, interface and block counters.
    pub const ALL: u32 = 1 | 4 | 8 | 16 | 32;
}

const SHORT: Duration = Duration::from_secs(20);
/// A start waits for QEMU, which may wait for a busy machine.
const LONG: Duration = Duration::from_secs(180);
/// Memory on its way to or from a disk.
const SAVING: Duration = Duration::from_secs(1800);
/// A guest on its way to another host; whoever waits for that gives up sooner.
const MOVING: Duration = Duration::from_secs(24 * 3600);
/// How long a call that lost its connection waits for the daemon to come back.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// libvirt's state of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainState(pub i32);

impl DomainState {
    /// Nova's power state for it.
    pub fn power(self) -> PowerState {
        match self.0 {
            1 | 2 => PowerState::Running,
            3 => PowerState::Paused,
            4 | 5 => PowerState::Shutdown,
            6 => PowerState::Crashed,
            7 => PowerState::Suspended,
            _ => PowerState::NoState,
        }
    }

    /// Whether a process runs: everything but off (5) and crashed (6).
    pub fn is_active(self) -> bool {
        !matches!(self.0, 5 | 6)
    }
}

/// A domain as every call names it. libvirt finds domains by their UUID and looks at nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRef {
    /// The server.
    pub id: ServerId,
    /// The domain's name.
    pub name: String,
}

impl DomainRef {
    fn encode(&self, encoder: Encoder) -> Encoder {
        encoder
            .string(&self.name)
            .fixed(self.id.0.as_bytes())
            .i32(-1)
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let name = decoder.string()?;
        let id = ServerId::from(Uuid::from_bytes(decoder.fixed()?));
        decoder.i32()?;
        Ok(Self { id, name })
    }
}

/// `virDomainGetInfo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DomainInfo {
    /// The state.
    pub state: DomainState,
    /// Maximum memory in KiB.
    pub memory_kib: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

/// Processors of the host by `virNodeGetInfo` (its memory figure is not to be trusted, see NUMA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Logical processors.
    pub cpus: u32,
    /// NUMA nodes.
    pub cells: u32,
    /// Sockets per node.
    pub sockets: u32,
    /// Cores per socket.
    pub cores: u32,
    /// Threads per core.
    pub threads: u32,
}

/// How far a block job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockJob {
    /// What is done, in units of its own.
    pub done: u64,
    /// What there is to do; equal when a mirror follows every write.
    pub of: u64,
}

/// How far a domain's job is, in bytes: all, done, left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Of its memory.
    pub memory: (u64, u64, u64),
    /// Of its disks.
    pub disk: (u64, u64, u64),
}

/// Named values of one domain, as `virConnectGetAllDomainStats` gives them.
#[derive(Clone, Debug)]
pub struct DomainStats {
    /// The domain.
    pub domain: DomainRef,
    values: Vec<(String, StatValue)>,
}

#[derive(Clone, Debug, PartialEq)]
enum StatValue {
    Number(u64),
    Text(String),
}

impl DomainStats {
    /// A number by its name.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.values.iter().find_map(|(key, value)| match value {
            StatValue::Number(number) if key == name => Some(*number),
            _ => None,
        })
    }

    /// A text by its name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.iter().find_map(|(key, value)| match value {
            StatValue::Text(text) if key == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// The domain's state.
    pub fn state(&self) -> DomainState {
        DomainState(
            self.number("state.state")
                .and_then(|state| i32::try_from(state).ok())
                .unwrap_or(0),
        )
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        let domain = DomainRef::decode(decoder)?;
        let count = decoder.count()?;
        let mut values = Vec::new();
        for _ in 0..count {
            let name = decoder.string()?;
            let value = match decoder.u32()? {
                1 => StatValue::Number(u64::try_from(decoder.i32()?).unwrap_or(0)),
                2 | 6 => StatValue::Number(u64::from(decoder.u32()?)),
                3..=5 => StatValue::Number(decoder.u64()?),
                7 => StatValue::Text(decoder.string()?),
                _ => return Err(Malformed),
            };
            values.push((name, value));
        }
        Ok(Self { domain, values })
    }
}

/// A lifecycle event: the domain, libvirt's event number and detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    /// The domain.
    pub domain: DomainRef,
    /// `virDomainEventType`.
    pub event: i32,
    /// Depends on the event.
    pub detail: i32,
}

impl Lifecycle {
    /// Reads an event message; `None` for other events.
    pub fn decode(procedure: u32, body: &[u8]) -> Option<Self> {
        if procedure != procedure::EVENT_LIFECYCLE {
            return None;
        }
        let mut decoder = Decoder::new(body);
        let mut read = || -> Result<Self, Malformed> {
            decoder.i32()?; // the callback's id
            Ok(Self {
                domain: DomainRef::decode(&mut decoder)?,
                event: decoder.i32()?,
                detail: decoder.i32()?,
            })
        };
        read().ok()
    }
}

/// Opens a connection and greets: the authentication list comes first (the daemon lets root in there), then the
/// hypervisor's address.
pub async fn greet(connection: &Connection, uri: &str) -> Result<(), RpcError> {
    connection
        .call(procedure::AUTH_LIST, Encoder::default(), SHORT)
        .await?;
    let open = Encoder::default().some_string(uri).u32(0);
    // The first connection after the daemon's start waits while it examines the QEMU binary.
    connection.call(procedure::OPEN, open, LONG).await?;
    Ok(())
}

/// Sends a domain to the daemon at `uri`, as the daemon here sees it, and waits until it has gone.
pub async fn migrate(
    connection: &Connection,
    domain: &DomainRef,
    uri: &str,
    parameters: &[(&str, Parameter<'_>)],
    flags: u32,
) -> Result<(), RpcError> {
    const TEXT: u32 = 7;
    let count = u32::try_from(parameters.len()).unwrap_or(0);
    let begun = domain
        .encode(Encoder::default())
        .some_string(uri)
        .u32(count);
    let body = parameters
        .iter()
        .fold(begun, |encoder, (name, Parameter::Text(text))| {
            encoder.string(name).u32(TEXT).string(text)
        });
    const NO_COOKIE: u32 = 0;
    let body = body.u32(NO_COOKIE).u32(flags);
    let procedure = procedure::DOMAIN_MIGRATE_PERFORM3_PARAMS;
    connection.call(procedure, body, MOVING).await.map(drop)
}

/// Asks for lifecycle events of all domains on this connection.
pub async fn register_lifecycle(connection: &Connection) -> Result<(), RpcError> {
    const LIFECYCLE: i32 = 0;
    connection
        .call(
            procedure::EVENT_REGISTER,
            Encoder::default().i32(LIFECYCLE).none(),
            SHORT,
        )
        .await?;
    Ok(())
}

/// A connection that is opened when needed and again when it was lost.
pub struct Link {
    sockets: Vec<PathBuf>,
    uri: String,
    open: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

impl Link {
    /// Not connected yet.
    pub fn new(sockets: Vec<PathBuf>, uri: String) -> Self {
        Self {
            sockets,
            uri,
            open: tokio::sync::Mutex::new(None),
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, RpcError> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *open = None;
        let connection = Connection::open(&self.sockets, None).await?;
        greet(&connection, &self.uri).await?;
        Ok(open.insert(Arc::new(connection)).clone())
    }

    /// Calls; when the connection broke during the call, connects again and repeats. Every caller's verb bears that.
    async fn call(
        &self,
        procedure: u32,
        body: impl Fn() -> Encoder,
        timeout: Duration,
    ) -> Result<Vec<u8>, RpcError> {
        let connection = self.connection().await?;
        match self.call_on(connection, procedure, body(), timeout).await {
            Err(RpcError::Closed(_)) => {}
            answer => return answer,
        }
        let started = std::time::Instant::now();
        loop {
            let answer = match self.connection().await {
                Ok(connection) => self.call_on(connection, procedure, body(), timeout).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(RpcError::Closed(_)) if started.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await
                }
                answer => return answer,
            }
        }
    }

    /// A connection whose call was late is left to those who wait on it: the daemon may be at that call for ever, and works on
    /// a few of a connection at once.
    async fn call_on(
        &self,
        connection: Arc<Connection>,
        procedure: u32,
        body: Encoder,
        timeout: Duration,
    ) -> Result<Vec<u8>, RpcError> {
        let answer = connection.call(procedure, body, timeout).await;
        if matches!(answer, Err(RpcError::Late(_))) {
            let mut open = self.open.lock().await;
            if open
                .as_ref()
                .is_some_and(|one| Arc::ptr_eq(one, &connection))
            {
                *open = None;
            }
        }
        answer
    }

    async fn domain_call(
        &self,
        procedure: u32,
        domain: &DomainRef,
        flags: u32,
        timeout: Duration,
    ) -> Result<(), RpcError> {
        self.call(
            procedure,
            || domain.encode(Encoder::default()).u32(flags),
            timeout,
        )
        .await
        .map(drop)
    }

    /// The hypervisor's version, as `major * 1,000,000 + minor * 1,000 + micro`.
    pub async fn hypervisor_version(&self) -> Result<u64, RpcError> {
        let body = self
            .call(procedure::GET_VERSION, Encoder::default, SHORT)
            .await?;
        Ok(Decoder::new(&body).u64()?)
    }

    /// The daemon answers.
    pub async fn ping(&self, timeout: Duration) -> Result<(), RpcError> {
        let ask = async {
            self.connection()
                .await?
                .call(procedure::GET_LIB_VERSION, Encoder::default(), timeout)
                .await
        };
        tokio::time::timeout(timeout, ask)
            .await
            .unwrap_or(Err(RpcError::Late(timeout)))
            .map(drop)
    }

    /// The host's name.
    pub async fn hostname(&self) -> Result<String, RpcError> {
        let body = self
            .call(procedure::GET_HOSTNAME, Encoder::default, SHORT)
            .await?;
        Ok(Decoder::new(&body).string()?)
    }

    /// The capabilities document (XML).
    pub async fn capabilities(&self) -> Result<String, RpcError> {
        let body = self
            .call(procedure::GET_CAPABILITIES, Encoder::default, LONG)
            .await?;
        Ok(Decoder::new(&body).string()?)
    }

    /// Whether guests of this kind (`kvm`, `qemu`) can have this processor here: an error with
    /// [`error_code::CPU_INCOMPATIBLE`] says what is missing.
    pub async fn compare_cpu(&self, kind: &str, cpu: &str) -> Result<(), RpcError> {
        const SAY_WHAT_IS_MISSING: u32 = 1;
        let request = || {
            // The default emulator, architecture and machine.
            let defaults = Encoder::default().none().none().none();
            let asked = defaults.some_string(kind).string(cpu);
            asked.u32(SAY_WHAT_IS_MISSING)
        };
        self.call(procedure::COMPARE_HYPERVISOR_CPU, request, LONG)
            .await
            .map(drop)
    }

    /// Processors of the host.
    pub async fn node_info(&self) -> Result<NodeInfo, RpcError> {
        let body = self
            .call(procedure::NODE_GET_INFO, Encoder::default, SHORT)
            .await?;
        let mut decoder = Decoder::new(&body);
        for _ in 0..32 {
            decoder.i32()?; // the model, one character per word
        }
        decoder.u64()?;
        let mut next = || Ok::<_, Malformed>(decoder.i32()?.try_into().unwrap_or(0));
        let cpus = next()?;
        next()?; // megahertz
        Ok(NodeInfo {
            cpus,
            cells: next()?,
            sockets: next()?,
            cores: next()?,
            threads: next()?,
        })
    }

    /// Defines a domain, or replaces its definition. The first time the daemon examines QEMU, which can take long.
    pub async fn define(&self, xml: &str) -> Result<DomainRef, RpcError> {
        let body = self
            .call(
                procedure::DOMAIN_DEFINE_XML_FLAGS,
                || Encoder::default().string(xml).u32(0),
                LONG,
            )
            .await?;
        Ok(DomainRef::decode(&mut Decoder::new(&body))?)
    }

    /// Starts a defined domain; an error when it runs. Memory that somebody else has had libvirt keep of it, as a service
    /// that saves guests when the host goes down, is forgotten: its disks may have changed since.
    pub async fn create(&self, domain: &DomainRef) -> Result<(), RpcError> {
        const FORCE_BOOT: u32 = 8;
        self.domain_call(
            procedure::DOMAIN_CREATE_WITH_FLAGS,
            domain,
            FORCE_BOOT,
            LONG,
        )
        .await
    }

    /// Ends a domain's process; an error when it is off.
    pub async fn destroy(&self, domain: &DomainRef) -> Result<(), RpcError> {
        self.domain_call(procedure::DOMAIN_DESTROY_FLAGS, domain, 0, LONG)
            .await
    }

    /// Forgets a domain with its saved state, snapshots' metadata, checkpoints and NVRAM.
    pub async fn undefine(&self, domain: &DomainRef) -> Result<(), RpcError> {
        const EVERYTHING: u32 = 1 | 2 | 4 | 16;
        self.domain_call(procedure::DOMAIN_UNDEFINE_FLAGS, domain, EVERYTHING, SHORT)
            .await
    }

    /// Presses the ACPI power button; an error when the domain is off.
    pub async fn power_button(&self, domain: &DomainRef) -> Result<(), RpcError> {
        const ACPI: u32 = 1;
        self.domain_call(procedure::DOMAIN_SHUTDOWN_FLAGS, domain, ACPI, SHORT)
            .await
    }

    /// Stops a domain's processors; an error when it is off.
    pub async fn pause(&self, domain: &DomainRef) -> Result<(), RpcError> {
        let body = || domain.encode(Encoder::default());
        self.call(procedure::DOMAIN_SUSPEND, body, SHORT)
            .await
            .map(drop)
    }

    /// Lets a domain's processors go on; an error when it is off or runs.
    pub async fn unpause(&self, domain: &DomainRef) -> Result<(), RpcError> {
        let body = || domain.encode(Encoder::default());
        self.call(procedure::DOMAIN_RESUME, body, SHORT)
            .await
            .map(drop)
    }

    /// Writes a domain's memory to a file and ends its process; an error when it is off.
    pub async fn save(&self, domain: &DomainRef, to: &str) -> Result<(), RpcError> {
        const RUNNING: u32 = 2;
        let body = || {
            domain
                .encode(Encoder::default())
                .string(to)
                .none()
                .u32(RUNNING)
        };
        self.call(procedure::DOMAIN_SAVE_FLAGS, body, SAVING)
            .await
            .map(drop)
    }

    /// Starts a domain with the memory of a file; an error when it runs.
    pub async fn restore(&self, from: &str) -> Result<(), RpcError> {
        const RUNNING: u32 = 2;
        let body = || Encoder::default().string(from).none().u32(RUNNING);
        self.call(procedure::DOMAIN_RESTORE_FLAGS, body, SAVING)
            .await
            .map(drop)
    }

    /// Sends a non-maskable interrupt; an error when the domain is off.
    pub async fn interrupt(&self, domain: &DomainRef) -> Result<(), RpcError> {
        self.domain_call(procedure::DOMAIN_INJECT_NMI, domain, 0, SHORT)
            .await
    }

    /// What a domain is now (XML).
    pub async fn description(&self, domain: &DomainRef) -> Result<String, RpcError> {
        let request = || domain.encode(Encoder::default()).u32(0);
        let body = self
            .call(procedure::DOMAIN_GET_XML_DESC, request, SHORT)
            .await?;
        Ok(Decoder::new(&body).string()?)
    }

    /// What a domain is now (XML), as another host can understand it.
    pub async fn for_another_host(&self, domain: &DomainRef) -> Result<String, RpcError> {
        const SECURE_AND_MIGRATABLE: u32 = 1 | 8;
        let request = || domain.encode(Encoder::default()).u32(SECURE_AND_MIGRATABLE);
        let body = self
            .call(procedure::DOMAIN_GET_XML_DESC, request, SHORT)
            .await?;
        Ok(Decoder::new(&body).string()?)
    }

    /// Calls a domain's job off; an error when it has none.
    pub async fn abort_job(&self, domain: &DomainRef) -> Result<(), RpcError> {
        let body = || domain.encode(Encoder::default());
        self.call(procedure::DOMAIN_ABORT_JOB, body, SHORT)
            .await
            .map(drop)
    }

    /// A domain on its way goes on on the other host, and the rest of its memory follows; an error when it is not, or was
    /// not sent with [`migration::flags`] for that.
    pub async fn start_post_copy(&self, domain: &DomainRef) -> Result<(), RpcError> {
        let body = || domain.encode(Encoder::default()).u32(0);
        self.call(procedure::DOMAIN_MIGRATE_START_POST_COPY, body, LONG)
            .await
            .map(drop)
    }

    /// How far a domain's job is, if it has one.
    pub async fn job(&self, domain: &DomainRef) -> Result<Option<Job>, RpcError> {
        let request = || domain.encode(Encoder::default());
        let body = self
            .call(procedure::DOMAIN_GET_JOB_INFO, request, SHORT)
            .await?;
        let mut decoder = Decoder::new(&body);
        if decoder.i32()? == 0 {
            return Ok(None);
        }
        // Time gone and left, then all of the data.
        for _ in 0..5 {
            decoder.u64()?;
        }
        let mut three = || Ok::<_, Malformed>((decoder.u64()?, decoder.u64()?, decoder.u64()?));
        Ok(Some(Job {
            memory: three()?,
            disk: three()?,
        }))
    }

    /// Plugs a device (XML) into a running domain.
    pub async fn plug(&self, domain: &DomainRef, device: &str) -> Result<(), RpcError> {
        self.change_device(procedure::DOMAIN_ATTACH_DEVICE_FLAGS, domain, device)
            .await
    }

    /// Asks a running domain to let go of a device (XML). It is gone when the guest has done so.
    pub async fn unplug(&self, domain: &DomainRef, device: &str) -> Result<(), RpcError> {
        self.change_device(procedure::DOMAIN_DETACH_DEVICE_FLAGS, domain, device)
            .await
    }

    async fn change_device(
        &self,
        procedure: u32,
        domain: &DomainRef,
        device: &str,
    ) -> Result<(), RpcError> {
        const LIVE: u32 = 1;
        let body = || domain.encode(Encoder::default()).string(device).u32(LIVE);
        self.call(procedure, body, LONG).await.map(drop)
    }

    /// Begins to mirror a disk, named by its file, into a new file described by `target` (XML).
    pub async fn copy_block(
        &self,
        domain: &DomainRef,
        disk: &str,
        target: &str,
    ) -> Result<(), RpcError> {
        self.block_copy(domain, disk, target, block_copy::TRANSIENT_JOB)
            .await
    }

    /// Begins to mirror a disk, named by its target, onto what is there and described by `target` (XML). When the mirror is
    /// whole no write of the guest is done before both have it.
    pub async fn copy_block_onto(
        &self,
        domain: &DomainRef,
        disk: &str,
        target: &str,
    ) -> Result<(), RpcError> {
        self.block_copy(domain, disk, target, block_copy::ONTO)
            .await
    }

    async fn block_copy(
        &self,
        domain: &DomainRef,
        disk: &str,
        target: &str,
        flags: u32,
    ) -> Result<(), RpcError> {
        let body = || {
            let begin = domain.encode(Encoder::default()).string(disk);
            // No parameters.
            begin.string(target).u32(0).u32(flags)
        };
        self.call(procedure::DOMAIN_BLOCK_COPY, body, LONG)
            .await
            .map(drop)
    }

    /// Ends a disk's job; a mirror that is whole stays as it is at this moment.
    pub async fn abort_block_job(&self, domain: &DomainRef, disk: &str) -> Result<(), RpcError> {
        self.end_block_job(domain, disk, 0).await
    }

    /// Ends a disk's job, whose mirror is whole: the guest goes on with the mirror. An error when it is not whole.
    pub async fn pivot_block_job(&self, domain: &DomainRef, disk: &str) -> Result<(), RpcError> {
        const PIVOT: u32 = 2;
        self.end_block_job(domain, disk, PIVOT).await
    }

    async fn end_block_job(
        &self,
        domain: &DomainRef,
        disk: &str,
        flags: u32,
    ) -> Result<(), RpcError> {
        let body = || domain.encode(Encoder::default()).string(disk).u32(flags);
        self.call(procedure::DOMAIN_BLOCK_JOB_ABORT, body, LONG)
            .await
            .map(drop)
    }

    /// The job on a disk, if there is one.
    pub async fn block_job(
        &self,
        domain: &DomainRef,
        disk: &str,
    ) -> Result<Option<BlockJob>, RpcError> {
        let request = || domain.encode(Encoder::default()).string(disk).u32(0);
        let body = self
            .call(procedure::DOMAIN_GET_BLOCK_JOB_INFO, request, SHORT)
            .await?;
        let mut decoder = Decoder::new(&body);
        if decoder.i32()? == 0 {
            return Ok(None);
        }
        decoder.i32()?; // what kind of job
        decoder.u64()?; // its bandwidth
        Ok(Some(BlockJob {
            done: decoder.u64()?,
            of: decoder.u64()?,
        }))
    }

    /// State, memory and processors of a domain.
    pub async fn info(&self, domain: &DomainRef) -> Result<DomainInfo, RpcError> {
        let body = self
            .call(
                procedure::DOMAIN_GET_INFO,
                || domain.encode(Encoder::default()),
                SHORT,
            )
            .await?;
        let mut decoder = Decoder::new(&body);
        let state = DomainState(decoder.i32()?);
        let memory_kib = decoder.u64()?;
        decoder.u64()?; // the balloon's present size
        Ok(DomainInfo {
            state,
            memory_kib,
            vcpus: decoder.u32()?,
        })
    }

    /// Values of the domains named, or of all when none is.
    pub async fn stats(
        &self,
        domains: &[DomainRef],
        which: u32,
    ) -> Result<Vec<DomainStats>, RpcError> {
        const NO_WAIT: u32 = 0x2000_0000;
        let request = || {
            let count = u32::try_from(domains.len()).unwrap_or(0);
            let names = domains
                .iter()
                .fold(Encoder::default().u32(count), |encoder, domain| {
                    domain.encode(encoder)
                });
            names.u32(which).u32(NO_WAIT)
        };
        let body = self
            .call(procedure::GET_ALL_DOMAIN_STATS, request, SHORT)
            .await?;
        let mut decoder = Decoder::new(&body);
        let count = decoder.count()?;
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(DomainStats::decode(&mut decoder)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::libvirt::rpc::scripted::Scripted;

    fn domain() -> DomainRef {
        DomainRef {
            id: ServerId::from(Uuid::from_u128(7)),
            name: "instance-1".into(),
        }
    }

    #[tokio::test]
    async fn a_connection_with_a_late_call_is_left() {
        let daemon = Scripted::start(|procedure, _| {
            Box::pin(async move {
                match procedure {
                    procedure::GET_HOSTNAME => Ok(Encoder::default().string("h1")),
                    procedure::DOMAIN_RESUME => std::future::pending().await,
                    _ => Ok(Encoder::default()),
                }
            })
        });
        let link = Link::new(daemon.sockets(), "test:///default".to_owned());
        assert_eq!(link.hostname().await.unwrap(), "h1");
        let soon = Duration::from_millis(20);
        let late = link
            .call(procedure::DOMAIN_RESUME, Encoder::default, soon)
            .await;
        assert_eq!(late, Err(RpcError::Late(soon)));
        assert_eq!(link.hostname().await.unwrap(), "h1");
        let called = daemon.called();
        let names = called.iter().filter(|one| one.1 == procedure::GET_HOSTNAME);
        let connections: Vec<usize> = names.map(|one| one.0).collect();
        assert_eq!(connections, [0, 1]);
    }

    #[test]
    fn lifecycle_events_are_read() {
        let body = domain()
            .encode(Encoder::default().i32(1))
            .i32(5)
            .i32(0)
            .finish();
        let event = Lifecycle::decode(procedure::EVENT_LIFECYCLE, &body).unwrap();
        assert_eq!(
            event,
            Lifecycle {
                domain: domain(),
                event: 5,
                detail: 0
            }
        );
        assert_eq!(Lifecycle::decode(319, &body), None);
        assert_eq!(
            Lifecycle::decode(procedure::EVENT_LIFECYCLE, &body[..20]),
            None
        );
    }

    #[test]
    fn stats_of_every_type_are_read() {
        let body = domain()
            .encode(Encoder::default())
            .u32(4)
            .string("state.state")
            .u32(1)
            .i32(1)
            .string("balloon.current")
            .u32(4)
            .u32(0)
            .u32(131_072)
            .string("net.0.name")
            .u32(7)
            .string("tap1")
            .string("x")
            .u32(6)
            .i32(1)
            .finish();
        let stats = DomainStats::decode(&mut Decoder::new(&body)).unwrap();
        assert_eq!(stats.state().power(), PowerState::Running);
        assert_eq!(stats.number("balloon.current"), Some(131_072));
        assert_eq!(stats.text("net.0.name"), Some("tap1"));
        assert_eq!(stats.number("net.0.name"), None);
    }

    #[test]
    fn states_map_as_in_nova() {
        let table = [
            (0, 0, true),
            (1, 1, true),
            (2, 1, true),
            (3, 3, true),
            (4, 4, true),
            (5, 4, false),
            (6, 6, false),
        ];
        for (libvirt, nova, active) in table {
            let state = DomainState(libvirt);
            assert_eq!(
                (state.power().code(), state.is_active()),
                (nova, active),
                "{libvirt}"
            );
        }
        assert_eq!(DomainState(7).power().code(), 7);
    }
}
