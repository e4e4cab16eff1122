//! Which processors guests get: nova.conf's `[libvirt] cpu_mode`, `cpu_models` and `cpu_model_extra_flags`.

use super::calls::error_code;
use super::domain::{HostChoices, cpu};
use super::rpc::RpcError;
use super::{Libvirt, explain};
use crate::hypervisor::{HypervisorError, Result};
use serde::{Deserialize, Serialize};

/// How guests' processors are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CpuMode {
    /// The nearest that libvirt knows to the host's: guests can move to hosts that are at least as good.
    HostModel,
    /// The host's, as it is: guests can move to hosts that are the same.
    HostPassthrough,
    /// A named one.
    Custom,
    /// Whatever QEMU gives.
    None,
}

impl CpuMode {
    const ALL: [Self; 4] = [
        Self::HostModel,
        Self::HostPassthrough,
        Self::Custom,
        Self::None,
    ];

    /// The word in nova.conf, and libvirt's.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostModel => "host-model",
            Self::HostPassthrough => "host-passthrough",
            Self::Custom => "custom",
            Self::None => "none",
        }
    }

    /// Reads that word.
    ///
    /// # Errors
    /// Another word.
    pub fn read(word: &str) -> std::result::Result<Self, String> {
        let mut all = Self::ALL.into_iter();
        let found = all.find(|one| one.as_str() == word);
        found.ok_or_else(|| {
            format!(
                "{word:?} is not a CPU mode; there are host-model, host-passthrough, custom and none"
            )
        })
    }
}

/// The processors that guests of a host get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuChoice {
    /// How they are chosen; none: the host's model on hardware, QEMU's own where guests are emulated.
    pub mode: Option<CpuMode>,
    /// The models of [`CpuMode::Custom`]: guests get the first one, and the host must be able to run each.
    pub models: Vec<String>,
    /// Features that guests get beside those of the model (`+name` or `name`), or do not get (`-name`).
    pub flags: Vec<String>,
}

impl CpuChoice {
    /// What Nova's compute service refuses when it starts.
    ///
    /// # Errors
    /// Why that is no choice.
    pub fn check(&self) -> std::result::Result<(), String> {
        match (self.mode, self.models.is_empty()) {
            (Some(CpuMode::Custom), true) => {
                Err("[libvirt] cpu_models is required when cpu_mode is custom".to_owned())
            }
            (Some(CpuMode::Custom), false) | (_, true) => Ok(()),
            (_, false) => {
                Err("[libvirt] cpu_models is only for cpu_mode = custom: leave it out".to_owned())
            }
        }
    }

    /// How they are chosen on a host whose guests run on hardware, or not.
    pub(super) fn mode(&self, kvm: bool) -> CpuMode {
        let usual = match kvm {
            true => CpuMode::HostModel,
            false => CpuMode::None,
        };
        self.mode.unwrap_or(usual)
    }

    /// Whether guests get all that the host's processor has.
    pub(super) fn is_like_host(&self, kvm: bool) -> bool {
        [CpuMode::HostModel, CpuMode::HostPassthrough].contains(&self.mode(kvm))
    }

    /// The features by name, each once, and whether guests get it.
    pub(super) fn features(&self) -> Vec<(String, bool)> {
        let mut features: Vec<(String, bool)> = self
            .flags
            .iter()
            .map(|flag| {
                let flag = flag.to_lowercase();
                match flag.strip_prefix('-') {
                    Some(name) => (name.to_owned(), false),
                    None => (flag.trim_start_matches('+').to_owned(), true),
                }
            })
            .collect();
        features.sort();
        features.dedup();
        features
    }
}

impl Libvirt {
    /// What shapes domains, with the model as libvirt writes it. Nova's compute service does not start where guests of the
    /// models that were chosen could not run; here the host is down as long as that is so.
    pub(super) async fn choices(&self) -> Result<HostChoices> {
        if self.choices.cpu.models.is_empty() {
            return Ok(self.choices.clone());
        }
        let finding = self
            .cpu_models
            .get_or_try_init(|| async { self.fit_models().await });
        let mut choices = self.choices.clone();
        choices.cpu.models.clone_from(finding.await?);
        Ok(choices)
    }

    async fn fit_models(&self) -> Result<Vec<String>> {
        let told = self.questions.domain_capabilities(self.choices.kvm).await;
        let known = known_models(&told.map_err(explain)?);
        let kind = if self.choices.kvm { "kvm" } else { "qemu" };
        let mut models = Vec::new();
        for model in &self.choices.cpu.models {
            let model = canonical(model, &known)?;
            let mut choices = self.choices.clone();
            choices.cpu.models = vec![model.clone()];
            let wanted = quick_xml::se::to_string_with_root("cpu", &cpu(1, &choices))
                .map_err(|error| HypervisorError::Rejected(error.to_string()))?;
            match self.questions.compare_cpu(kind, &wanted).await {
                Ok(()) => models.push(model),
                Err(RpcError::Refused {
                    code: error_code::CPU_INCOMPATIBLE,
                    message,
                }) => return Err(unfit(&model, &message)),
                Err(error) => return Err(explain(error)),
            }
        }
        Ok(models)
    }
}

fn unfit(model: &str, why: &str) -> HypervisorError {
    HypervisorError::Rejected(format!(
        "[libvirt] cpu_models: guests with the model {model} and the flags of cpu_model_extra_flags cannot run on this \
         host: {why}"
    ))
}

/// The model as libvirt writes it; operators may write it in any case.
fn canonical(model: &str, known: &[String]) -> Result<String> {
    let found = known.iter().find(|one| one.eq_ignore_ascii_case(model));
    found.cloned().ok_or_else(|| {
        HypervisorError::Rejected(format!(
            "[libvirt] cpu_models: libvirt knows no model {model} for guests of this host"
        ))
    })
}

/// The models that libvirt's capabilities of domains name; between them it says what each lacks here.
fn known_models(capabilities: &str) -> Vec<String> {
    let custom = |quote: char| format!("<mode name={quote}custom{quote}");
    let start = capabilities
        .find(&custom('\''))
        .or_else(|| capabilities.find(&custom('"')));
    let modes = start.map_or("", |start| &capabilities[start..]);
    let mode = modes.split("</mode>").next().unwrap_or_default();
    let models = mode.split("<model").skip(1);
    let named = models.filter_map(|model| model.split_once('>')?.1.split_once("</model>"));
    named.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_words_are_novas() {
        for mode in CpuMode::ALL {
            assert_eq!(CpuMode::read(mode.as_str()), Ok(mode));
        }
        assert!(CpuMode::read("maximum").is_err());
    }

    /// Nova's `_check_cpu_compatibility`.
    #[test]
    fn models_go_with_custom_and_with_nothing_else() {
        let custom = Some(CpuMode::Custom);
        for (mode, models, fine) in [
            (None, &[] as &[&str], true),
            (None, &["Haswell"], false),
            (Some(CpuMode::None), &["Haswell"], false),
            (Some(CpuMode::HostModel), &["Haswell"], false),
            (Some(CpuMode::HostPassthrough), &[], true),
            (custom, &[], false),
            (custom, &["Haswell", "Skylake-Client"], true),
        ] {
            let choice = CpuChoice {
                mode,
                models: names(models),
                flags: Vec::new(),
            };
            assert_eq!(choice.check().is_ok(), fine, "{choice:?}");
        }
    }

    #[test]
    fn guests_are_like_the_host_unless_they_are_emulated_or_it_is_said() {
        let chosen = |mode| CpuChoice {
            mode,
            ..CpuChoice::default()
        };
        assert_eq!(chosen(None).mode(true), CpuMode::HostModel);
        assert_eq!(chosen(None).mode(false), CpuMode::None);
        assert_eq!(
            chosen(Some(CpuMode::HostModel)).mode(false),
            CpuMode::HostModel
        );
        assert!(chosen(None).is_like_host(true) && !chosen(None).is_like_host(false));
        assert!(!chosen(Some(CpuMode::None)).is_like_host(true));
        assert!(!chosen(Some(CpuMode::Custom)).is_like_host(true));
    }

    #[test]
    fn flags_are_wanted_unless_they_have_a_minus() {
        let choice = CpuChoice {
            flags: names(&["PCID", "+ssbd", "-mtrr", "pcid"]),
            ..CpuChoice::default()
        };
        let wanted = [("mtrr", false), ("pcid", true), ("ssbd", true)];
        let wanted = wanted.map(|(name, wanted)| (name.to_owned(), wanted));
        assert_eq!(choice.features(), wanted);
    }

    const DOCUMENT: &str = r#"<domainCapabilities>
  <path>/usr/bin/qemu-system-x86_64</path>
  <cpu>
    <mode name='host-passthrough' supported='yes'><enum name='hostPassthroughMigratable'><value>on</value></enum></mode>
    <mode name='host-model' supported='yes'><model fallback='forbid'>EPYC</model><vendor>AMD</vendor></mode>
    <mode name='custom' supported='yes'>
      <model usable='yes' deprecated='yes' vendor='unknown' canonical='qemu64-v1'>qemu64</model>
      <model usable='no' vendor='Intel'>Haswell-noTSX</model>
      <blockers model='Haswell-noTSX'><feature name='pcid'/></blockers>
      <model usable='yes' vendor='AMD'>EPYC</model>
    </mode>
    <mode name='later'><model>never</model></mode>
  </cpu>
</domainCapabilities>"#;

    #[test]
    fn models_are_known_in_any_case() {
        let known = known_models(DOCUMENT);
        assert_eq!(known, names(&["qemu64", "Haswell-noTSX", "EPYC"]));
        assert_eq!(canonical("haswell-notsx", &known).unwrap(), "Haswell-noTSX");
        let refused = canonical("Haswel", &known).unwrap_err().to_string();
        assert!(refused.contains("knows no model Haswel "), "{refused}");
        assert!(known_models("<domainCapabilities/>").is_empty());
    }
}
