//! `OP_CLUSTER_VERIFY` and `OP_CLUSTER_VERIFY_CONFIG`, and how findings are told. The texts are Ganeti's (3.0,
//! `cmdlib/cluster/verify.py`).

use model::config::Config;
use model::error::Result;
use model::job::Depend;
use model::opcode::{ClusterVerify, ClusterVerifyConfig, ClusterVerifyGroup, Op};
use model::param::{Hypervisor, NonEmpty};
use model::params::hv;
use serde_json::{Value, json};

use crate::locks::Mode;
use crate::lu::{Cx, Level, Locks, LogicalUnit};

/// What a finding is about, and its code.
#[derive(Clone, Copy)]
pub(super) struct Kind(pub(super) &'static str, pub(super) &'static str);

const CONFIGURATION: Kind = Kind("cluster", "ECLUSTERCFG");

/// Tells findings, and keeps whether one of them was an error.
pub(super) struct Findings<'a> {
    cx: &'a Cx,
    /// Whether they are told in a form for programs.
    codes: bool,
    ignored: &'a [NonEmpty],
    pub(super) bad: bool,
}

impl<'a> Findings<'a> {
    pub(super) fn new(cx: &'a Cx, codes: bool, ignored: &'a [NonEmpty]) -> Self {
        Self { cx, codes, ignored, bad: false }
    }

    pub(super) fn error(&mut self, kind: Kind, item: Option<&str>, text: &str) {
        let ignored = self.ignored.iter().any(|code| code.as_str() == kind.1);
        self.bad |= !ignored;
        self.tell(if ignored { "WARNING" } else { "ERROR" }, kind, item, text);
    }

    pub(super) fn warning(&mut self, kind: Kind, item: Option<&str>, text: &str) {
        self.tell("WARNING", kind, item, text);
    }

    fn tell(&self, weight: &str, Kind(object, code): Kind, item: Option<&str>, text: &str) {
        self.cx.log(&match (self.codes, item) {
            (true, item) => {
                format!("  - {weight}:{code}:{object}:{}:{text}", item.unwrap_or("None"))
            }
            (false, item) => format!("  - {weight}: {object} {}: {text}", item.unwrap_or_default()),
        });
    }
}

impl LogicalUnit for ClusterVerify {
    type Plan = ();

    fn locks(&self, _config: &Config) -> Result<Locks> {
        Ok(Locks::new())
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let config = cx.config();
        let group = |name: NonEmpty| ClusterVerifyGroup {
            group_name: name,
            debug_simulate_errors: self.debug_simulate_errors,
            error_codes: self.error_codes,
            skip_checks: self.skip_checks.clone(),
            ignore_errors: self.ignore_errors.clone(),
            verbose: self.verbose,
            verify_clutter: self.verify_clutter,
        };
        let mut jobs: Vec<Vec<Op>> = Vec::new();
        if let Some(name) = &self.group_name {
            jobs.push(vec![group(name.clone()).into()]);
        } else {
            let whole = ClusterVerifyConfig {
                debug_simulate_errors: self.debug_simulate_errors,
                error_codes: self.error_codes,
                ignore_errors: self.ignore_errors.clone(),
                verbose: self.verbose,
            };
            jobs.push(vec![whole.into()]);
            for name in config.groups.keys().filter_map(|uuid| NonEmpty::new(uuid.as_str())) {
                let mut op: Op = group(name).into();
                // The configuration comes first, however it ends.
                let job = -i64::try_from(jobs.len()).unwrap_or(i64::MAX);
                op.common.depends = Some(vec![Depend { job, statuses: Vec::new() }]);
                jobs.push(vec![op]);
            }
        }
        Ok(json!({"jobs": cx.submit(jobs).await?}))
    }
}

impl LogicalUnit for ClusterVerifyConfig {
    type Plan = ();

    fn locks(&self, _config: &Config) -> Result<Locks> {
        let levels =
            [Level::Instance, Level::NodeGroup, Level::Node, Level::NodeRes, Level::Network];
        Ok(levels.into_iter().fold(Locks::new(), |locks, level| locks.all(level, Mode::Shared)))
    }

    async fn check_prereq(&self, _cx: &Cx) -> Result<()> {
        Ok(())
    }

    /// Certificates between nodes, which Ganeti looks at here too, are none of this cluster's.
    async fn exec(&self, cx: &Cx, _plan: ()) -> Result<Value> {
        let config = cx.config();
        let mut findings = Findings::new(cx, self.error_codes, &self.ignore_errors);
        cx.log("* Verifying cluster config");
        for problem in crate::verify::verify(&config) {
            findings.error(CONFIGURATION, None, &problem);
        }
        if self.debug_simulate_errors {
            findings.error(CONFIGURATION, None, "an error that was asked for");
        }
        cx.log("* Verifying hypervisor parameters");
        let mut check = |source: &str, hypervisor: Hypervisor, filled: &model::param::Dict| {
            if let Err(error) = hv::check_syntax(hypervisor, filled, cx.compat()) {
                let text = format!(
                    "hypervisor {source} parameters syntax check (source {hypervisor}): {error}"
                );
                findings.error(CONFIGURATION, None, &text);
            }
        };
        let cluster = &*config.cluster;
        for hypervisor in &cluster.enabled_hypervisors {
            check("cluster", *hypervisor, &hv::fill_cluster(cluster, *hypervisor, cx.compat()));
        }
        for instance in config.instances.values() {
            let filled = crate::spec::hvparams(&config, cx.compat(), instance);
            check(&format!("instance {}", instance.name), instance.hypervisor, &filled);
        }
        // That nodes and instances are where they say is part of verifying the configuration.
        cx.log("* Verifying all nodes belong to an existing group");
        Ok(json!(!findings.bad))
    }
}
