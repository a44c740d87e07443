//! The whole allocator in one function: picture and request in, reply out. A script's reply has the same type
//! ([`crate::iallocator::parse_reply`]), so the caller need not know who answered.

use serde_json::Value;

use crate::cluster::{Cluster, PictureError, Placement, Refusal};
use crate::evacuate::{Evacuation, Moved};
use crate::picture::{Options, Picture, Request};

/// What an allocator says.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// A word for the operator; why, if nothing was found.
    pub info: String,
    /// `None` when the allocator did not succeed.
    pub result: Option<Found>,
}

/// What it found.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// The nodes for an allocation or a relocation: names, primary first.
    Nodes(Vec<String>),
    /// The one node for a secondary.
    Node(String),
    /// Nodes for each of many instances, and those that found no place.
    Placements { placed: Vec<(String, Vec<String>)>, failed: Vec<String> },
    /// Moves, and the jobs that make them: opcodes as JSON, for a script may say more in them than we would.
    Moves { moved: Vec<Moved>, failed: Vec<(String, Option<String>)>, jobs: Vec<Vec<Value>> },
}

impl From<Refusal> for Reply {
    fn from(Refusal(reason): Refusal) -> Self {
        Self { info: format!("Request failed: {reason}"), result: None }
    }
}

impl From<PictureError> for Reply {
    fn from(error: PictureError) -> Self {
        Refusal(error.to_string()).into()
    }
}

impl From<Evacuation> for Found {
    fn from(plan: Evacuation) -> Self {
        let jobs = plan.jobs.iter().map(|job| job.iter().map(|step| step.to_value()).collect());
        Self::Moves {
            jobs: jobs.collect(),
            moved: plan.moved,
            failed: plan.failed.into_iter().map(|(name, reason)| (name, Some(reason))).collect(),
        }
    }
}

/// Answers a request as the built-in allocator.
pub fn solve(picture: &Picture, request: &Request, options: Options) -> Reply {
    let mut cluster = match Cluster::new(picture, options) {
        Ok(cluster) => cluster,
        Err(error) => return error.into(),
    };
    match solve_on(&mut cluster, request) {
        Ok((info, found)) => {
            Reply { info: format!("Request successful: {info}"), result: Some(found) }
        }
        Err(reply) => reply,
    }
}

/// The same on a picture that is indexed already, and remembers what was found.
fn solve_on(cluster: &mut Cluster, request: &Request) -> Result<(String, Found), Reply> {
    let nodes = |placement: Placement| (placement.info, Found::Nodes(placement.nodes));
    Ok(match request {
        Request::Allocate(allocation) => nodes(cluster.allocate(allocation)?),
        Request::Relocate { name, relocate_from } => nodes(cluster.relocate(name, relocate_from)?),
        Request::AllocateSecondary { name } => {
            let mut placement = cluster.allocate_secondary(name)?;
            (placement.info, Found::Node(placement.nodes.remove(0)))
        }
        Request::MultiAllocate(allocations) => {
            let mut placed = Vec::new();
            let mut failed = Vec::new();
            for allocation in allocations {
                match cluster.allocate(allocation) {
                    Ok(placement) => placed.push((allocation.name.clone(), placement.nodes)),
                    Err(_) => failed.push(allocation.name.clone()),
                }
            }
            let info = format!(
                "{} instances failed to allocate and {} were allocated successfully",
                failed.len(),
                placed.len()
            );
            (info, Found::Placements { placed, failed })
        }
        Request::NodeEvacuate { instances, mode } => moves(cluster.evacuate(instances, *mode)?),
        Request::ChangeGroup { instances, target_groups } => {
            moves(cluster.change_group(instances, target_groups)?)
        }
    })
}

fn moves(plan: Evacuation) -> (String, Found) {
    (plan.info(), plan.into())
}
