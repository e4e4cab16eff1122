//! `kilonova manage`: what an operator asks about a cloud.

use crate::arguments::{Configured, Manage, Policy};
use crate::{certificates, settings};
use anyhow::{Context, Result, bail};
use api::PolicyReport;

/// Does what was asked.
pub(crate) fn manage(what: Manage) -> Result<()> {
    match what {
        Manage::Certificates(wanted) => return certificates::run(&wanted),
        Manage::Policy(Policy::List(of)) => print!("{}", report(&of)?.list()),
        Manage::Policy(Policy::Explain { of, rule }) => print!(
            "{}",
            report(&of)?
                .explain(&rule)
                .with_context(|| unknown(&rule))?
        ),
        Manage::Policy(Policy::Check {
            of,
            roles,
            other_project,
            rule,
        }) => return check(&of, &roles, !other_project, rule.as_deref()),
        // Those that need databases are in `repairs` and `purge`.
        Manage::Task(_) | Manage::Audit { .. } | Manage::Services(_) | Manage::Purge(_) => {}
        Manage::Openapi { version } => {
            let version = version.as_deref().unwrap_or("latest");
            let document = api::openapi(version)
                .with_context(|| format!("{version} is no microversion of this cloud"))?;
            println!("{document:#}");
        }
    }
    Ok(())
}

fn report(of: &Configured) -> Result<PolicyReport> {
    let settings = settings::read_warned(of)?;
    Ok(PolicyReport::read(settings.policy_files())?)
}

fn unknown(rule: &str) -> String {
    format!("there is no rule {rule}; `kilonova manage policy list` names all of them")
}

fn check(of: &Configured, roles: &[String], own: bool, rule: Option<&str>) -> Result<()> {
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    let verdicts = report(of)?.check(&roles, own, rule);
    if let (Some(rule), true) = (rule, verdicts.is_empty()) {
        bail!(unknown(rule));
    }
    for (name, passes) in &verdicts {
        println!("{} {name}", if *passes { "yes" } else { "no " });
    }
    if rule.is_some() && verdicts.iter().any(|(_, passes)| !passes) {
        bail!("refused");
    }
    Ok(())
}
