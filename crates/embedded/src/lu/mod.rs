//! Logical units: what each opcode does. The parameters are the opcode's struct; this module says how it is run.
//!
//! A unit says which locks it wants (a pure function of the configuration, asked again once they are held), checks whether it
//! can do its work (which gives a plan), and does it. What the checks learned travels in the plan, never in the unit.

pub(crate) mod backup;
pub(crate) mod change_group;
pub(crate) mod cluster;
pub(crate) mod cx;
pub(crate) mod expand;
pub(crate) mod ext_storage_diagnose;
pub(crate) mod group;
pub(crate) mod instance;
pub(crate) mod network;
pub(crate) mod nodes;
pub(crate) mod os_diagnose;
pub(crate) mod plain_hooks;
pub(crate) mod remote;
pub(crate) mod shared_checks;
pub(crate) mod tags;
pub(crate) mod test_delay;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::future::Future;

use model::config::Config;
use model::error::{ErrorClass, GanetiError, Result};
use model::name::Uuid;
use model::opcode::{Common, OpCode, OpId, Opcode};
use node::{HookPhase, HookStatus};
use serde_json::Value;

pub(crate) use crate::locks::{Level, Locks};
pub(crate) use cx::Cx;

/// What an opcode's hooks are run with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hooks {
    /// Variables without their `GANETI_` prefix; `OP_TARGET` and `OBJECT_TYPE` among them.
    pub(crate) env: BTreeMap<String, String>,
    /// The same after the work; they get `POST_` put before them.
    pub(crate) post_env: BTreeMap<String, String>,
    /// Where the scripts run before and after. The master is always among them.
    pub(crate) pre_nodes: Vec<Uuid>,
    pub(crate) post_nodes: Vec<Uuid>,
}

/// What an opcode does.
pub(crate) trait LogicalUnit: Opcode + Clone + Send + Sync + 'static {
    /// What the checks found out and the work needs.
    type Plan: Send + Sync;

    /// Checks the parameters by themselves and brings them into the form that the rest reads: names in lower case, defaults
    /// of the cluster filled in. It is called once, before anything else.
    fn prepare(&mut self, _cx: &Cx) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }

    /// The locks that the work needs. Names that are not known are refused here.
    fn locks(&self, config: &Config) -> Result<Locks>;

    /// Whether the work can be done, and how.
    fn check_prereq(&self, cx: &Cx) -> impl Future<Output = Result<Self::Plan>> + Send;

    /// What its hooks are run with; `None` when it has none.
    fn hooks(&self, _cx: &Cx, _plan: &Self::Plan) -> Option<Hooks> {
        None
    }

    /// The variables of the post hooks, once the work is done; those of [`LogicalUnit::hooks`] where it stays `None`.
    fn post_env(&self, _cx: &Cx) -> Option<BTreeMap<String, String>> {
        None
    }

    /// The result when only the checks were asked for.
    fn dry_run(&self, _cx: &Cx, _plan: &Self::Plan) -> Value {
        Value::Null
    }

    /// Does the work.
    fn exec(&self, cx: &Cx, plan: Self::Plan) -> impl Future<Output = Result<Value>> + Send;
}

/// Dispatches an opcode to its logical unit; a row of the table without one does not compile.
macro_rules! define_execute {
    ($($Op:ident $noun:ident,)*) => {
        /// Runs one opcode from its checks to its result.
        pub(crate) async fn execute(code: &OpCode, common: &Common, cx: &Cx) -> Result<Value> {
            match code { $(OpCode::$Op(op) => run((**op).clone(), common, cx).await,)* }
        }
    };
}
model::for_each_opcode!(define_execute);

/// Ganeti: units that look names up before they check other parameters (3.0, `CheckArguments` of cmdlib/node.py).
const NAMES_FIRST: &[OpId] =
    &[OpId::NodeModifyStorage, OpId::NodePowercycle, OpId::NodeSetParams, OpId::RepairNodeStorage];

/// Runs a unit: locks, checks, pre hooks, the work, post hooks.
async fn run<L>(mut op: L, common: &Common, cx: &Cx) -> Result<Value>
where
    L: LogicalUnit + Into<OpCode>,
{
    cx.set_debug_level(common.debug_level.unwrap_or(0));
    let names_first = NAMES_FIRST.contains(&L::ID);
    if names_first {
        cx.show(op.clone());
    }
    let prepared = op.prepare(cx).await;
    if prepared.is_ok() || names_first {
        cx.show(op.clone());
    } else {
        cx.port().rewrite(op.clone().into());
    }
    prepared?;
    hold(&op, cx).await?;
    let plan = op.check_prereq(cx).await?;
    let hooks = op.hooks(cx, &plan).filter(|_| L::DEF.hooks.is_some());
    if let Some(hooks) = &hooks {
        run_hooks::<L>(cx, HookPhase::Pre, &hooks.env, &hooks.pre_nodes).await?;
    }
    if common.dry_run == Some(true) {
        cx.info("dry-run mode requested, not actually executing the operation");
        return Ok(op.dry_run(cx, &plan));
    }
    let before = cx.config().version;
    let result = op.exec(cx, plan).await?;
    if cx.config().version != before {
        run_config_update(cx).await;
    }
    if let Some(hooks) = &hooks {
        let mut env = hooks.env.clone();
        let post = op.post_env(cx).unwrap_or_else(|| hooks.post_env.clone());
        env.extend(post.into_iter().map(|(name, value)| (format!("POST_{name}"), value)));
        if let Err(error) = run_hooks::<L>(cx, HookPhase::Post, &env, &hooks.post_nodes).await {
            cx.warn(&error.to_string());
        }
    }
    Ok(result)
}

/// Takes the unit's locks. They are computed on a snapshot, which may be old once they are granted: then they are asked for
/// again, until what is held covers what the newest configuration wants.
async fn hold<L: LogicalUnit>(op: &L, cx: &Cx) -> Result<()> {
    let mut wanted = op.locks(&cx.config())?;
    loop {
        cx.port().acquire(&wanted).await?;
        let now = op.locks(&cx.config())?;
        if wanted.covers(&now) {
            return Ok(());
        }
        cx.port().release();
        wanted = wanted.join(&now);
    }
}

/// Runs the scripts of a unit's hooks path on the nodes. A failing pre hook aborts (`HooksAbort`); Ganeti 3.1, `hooksmaster.py`.
async fn run_hooks<L: LogicalUnit>(
    cx: &Cx,
    phase: HookPhase,
    env: &BTreeMap<String, String>,
    nodes: &[Uuid],
) -> Result<()> {
    let Some(path) = L::DEF.hooks else { return Ok(()) };
    let mut env = env.clone();
    env.insert("OP_CODE".to_owned(), L::DEF.id.to_owned());
    run_hook_path(cx, path, phase, env, nodes).await
}

async fn run_hook_path(
    cx: &Cx,
    path: &str,
    phase: HookPhase,
    mut env: BTreeMap<String, String>,
    nodes: &[Uuid],
) -> Result<()> {
    let config = cx.config();
    let cluster = &config.cluster;
    for (name, value) in [
        ("HOOKS_VERSION", "2".to_owned()),
        ("HOOKS_PHASE", phase.as_str().to_owned()),
        ("HOOKS_PATH", path.to_owned()),
        ("CLUSTER", cluster.cluster_name.clone()),
        ("MASTER", config.node_name(&cluster.master_node).to_owned()),
        ("DATA_DIR", cx.data_dir().to_owned()),
    ] {
        env.insert(name.to_owned(), value);
    }
    let mut failed = Vec::new();
    for uuid in nodes {
        let name = config.node_name(uuid).to_owned();
        let online = config.nodes.get(uuid).is_some_and(|node| !node.offline);
        let Some(node) = cx.nodes().get(uuid).filter(|_| online) else { continue };
        match node.run_hooks(path, phase, &env).await {
            Ok(results) => {
                let bad = results.into_iter().filter(|result| result.status == HookStatus::Failed);
                failed.extend(bad.map(|result| (name.clone(), result.script, result.output)));
            }
            Err(error) => cx.warn(&format!("Communication failure to node {name}: {error}")),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let rows =
        || failed.iter().map(|(node, script, output)| serde_json::json!([node, script, output]));
    match phase {
        HookPhase::Pre => {
            Err(GanetiError { class: ErrorClass::HooksAbort, args: vec![rows().collect()] })
        }
        HookPhase::Post => {
            for (node, script, output) in &failed {
                let output = if output.is_empty() { "(no output)" } else { output };
                cx.warn(&format!("On {node} script {script} failed, output: {output}"));
            }
            Ok(())
        }
    }
}

/// Runs the `config-update` post hooks on the master; their failures are only told.
async fn run_config_update(cx: &Cx) {
    let master = cx.config().cluster.master_node.clone();
    let mut env = BTreeMap::new();
    env.insert("OP_TARGET".to_owned(), cx.config().cluster.cluster_name.clone());
    env.insert("OBJECT_TYPE".to_owned(), "CLUSTER".to_owned());
    if let Err(error) = run_hook_path(cx, "config-update", HookPhase::Post, env, &[master]).await {
        cx.warn(&error.to_string());
    }
}
