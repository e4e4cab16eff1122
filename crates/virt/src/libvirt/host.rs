//! What the host is, and whose guests could run on it.

use super::calls::error_code;
use super::rpc::RpcError;
use super::{Libvirt, acceleration, capabilities, explain};
use crate::facts::{CpuTopology, HostFacts};
use crate::hypervisor::{Hypervisor, HypervisorError, Result};
use types::ServerId;

impl Libvirt {
    /// Its properties and present use.
    pub(super) async fn facts(&self) -> Result<HostFacts> {
        acceleration::check(self.acceleration, &self.kvm).await?;
        self.choices().await?;
        let version = self.questions.hypervisor_version().await.map_err(explain)?;
        let hostname = self.questions.hostname().await.map_err(explain)?;
        let node = self.questions.node_info().await.map_err(explain)?;
        let running = self
            .guests()
            .await?
            .iter()
            .filter(|guest| guest.active)
            .count();
        let capabilities = self.capabilities().await?;
        let (memory_mib, memory_used_mib) = capabilities::host_memory()?;
        let disk = rustix::fs::statvfs(self.instances.path()).map_err(|error| {
            HypervisorError::disk(self.instances.path().display(), &error.into())
        })?;
        const GIB: u64 = 1 << 30;
        let mut cpu_info = capabilities.cpu.clone();
        cpu_info.topology = CpuTopology {
            cells: node.cells,
            sockets: node.sockets,
            cores: node.cores,
            threads: node.threads,
        };
        if self.choices.kvm && self.choices.cpu.is_like_host(true) {
            // Of a model that is named, or QEMU's own, nobody says here what it has.
            let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let mut flags = crate::traits::flags(&text);
            let features = self.choices.cpu.features();
            flags.retain(|flag| !features.contains(&(flag.clone(), false)));
            cpu_info.for_guests = flags;
        }
        Ok(HostFacts {
            hypervisor_type: "QEMU".into(),
            hypervisor_version: version,
            hypervisor_hostname: hostname,
            vcpus: node.cpus,
            memory_mib,
            memory_used_mib,
            disk_gib: disk.f_blocks.saturating_mul(disk.f_frsize) / GIB,
            disk_free_gib: disk.f_bavail.saturating_mul(disk.f_frsize) / GIB,
            cpu_info,
            supported: capabilities.supported.clone(),
            running_guests: running.try_into().unwrap_or(u32::MAX),
            storage: self.storage.clone(),
            tpm: self.tpm_kinds().await?,
        })
    }

    /// The processor of a guest that runs, as its description says it for another host: complete, whatever the guest was
    /// defined with.
    pub(super) async fn cpu_of(&self, id: ServerId) -> Result<Option<String>> {
        if !self.must_look(id).await?.active {
            return Ok(None);
        }
        let domain = self.reference(id);
        let told = self.questions.for_another_host(&domain).await;
        let told = told.map_err(explain)?;
        // What is emulated is emulated anywhere.
        let emulated = told.starts_with("<domain type='qemu'");
        Ok(cpu_element(&told).filter(|_| !emulated).map(str::to_owned))
    }

    /// What such a processor has and guests here would not find.
    pub(super) async fn lacks(&self, cpu: &str) -> Result<Option<String>> {
        let kind = if self.choices.kvm { "kvm" } else { "qemu" };
        match self.questions.compare_cpu(kind, cpu).await {
            Ok(()) => Ok(None),
            Err(RpcError::Refused {
                code: error_code::CPU_INCOMPATIBLE,
                message,
            }) => Ok(Some(message)),
            Err(error) => Err(explain(error)),
        }
    }
}

/// The words of the processor in a domain's description.
fn cpu_element(description: &str) -> Option<&str> {
    let start = description.find("<cpu ")?;
    let rest = &description[start..];
    let end = rest.find("</cpu>")? + "</cpu>".len();
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use super::cpu_element;

    #[test]
    fn the_processor_is_cut_out_of_a_description() {
        let cpu = "<cpu mode='custom' match='exact'>\n    <model>qemu64</model>\n  </cpu>";
        let domain = format!("<domain>\n  <vcpu placement='static'>1</vcpu>\n  {cpu}\n</domain>");
        assert_eq!(cpu_element(&domain), Some(cpu));
        assert_eq!(cpu_element("<domain><vcpu>1</vcpu></domain>"), None);
    }
}
