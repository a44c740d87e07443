//! Disk template `plain`: logical volumes, by LVM's own commands. What is run and how its output is read are pure
//! functions; the rest runs them.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use model::param::StorageType;
use serde_json::Value;

use super::{Driver, device};
use crate::process::{Finished, Process, find_program};
use crate::spec::DiskSpec;
use crate::state::StorageUnit;
use crate::{NodeError, Result, StorageRow, VolumeRow};

/// How long a command of LVM may take; on a busy machine they wait for each other.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// What separates columns.
const SEPARATOR: &str = "--separator=|";
/// How a volume is given space, the tidiest first.
const ALLOC_POLICIES: [&str; 3] = ["contiguous", "cling", "normal"];
/// The longest tag that a volume is given.
const TAG_MAX: usize = 128;

/// Logical volumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lvm;

fn failed(text: impl Into<String>) -> NodeError {
    NodeError::Failed(text.into())
}

/// A volume: its group and its name.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Volume<'a> {
    group: &'a str,
    name: &'a str,
}

impl<'a> Volume<'a> {
    fn of(disk: &'a DiskSpec) -> Result<Self> {
        let part = |at: usize| disk.logical_id.get(at).and_then(Value::as_str).unwrap_or_default();
        let volume = Self { group: part(0), name: part(1) };
        check_name(volume.group)?;
        check_name(volume.name)?;
        Ok(volume)
    }

    fn path(self) -> String {
        format!("/dev/{}/{}", self.group, self.name)
    }
}

/// Refuses what is no name of a group or volume (lvm(8)).
fn check_name(name: &str) -> Result<()> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "+_.-".contains(letter);
    let wrong = name.is_empty()
        || name.starts_with('-')
        || !name.chars().all(letters)
        || [".", "..", "snapshot", "pvmove"].contains(&name)
        || ["_mlog", "_mimage"].iter().any(|part| name.contains(part));
    if wrong { Err(failed(format!("Invalid LVM name '{name}'"))) } else { Ok(()) }
}

// What is run.

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).into()
}

/// A list of physical volumes or groups with these columns; one, or all.
fn list_command(command: &str, columns: &str, name: Option<&str>) -> Vec<String> {
    let mut argv = words([
        command,
        "--noheadings",
        "--units=m",
        "--nosuffix",
        SEPARATOR,
        "--options",
        columns,
    ]);
    argv.extend(name.map(str::to_owned));
    argv
}

/// All logical volumes, with what a disk is asked for.
fn volumes_command() -> Vec<String> {
    words([
        "lvs",
        "--noheadings",
        SEPARATOR,
        "--units=k",
        "--nosuffix",
        "-ovg_name,lv_name,lv_attr,lv_kernel_major,lv_kernel_minor,vg_extent_size,stripes,devices",
    ])
}

/// Ways to make a volume, the best first: with as many stripes as wanted, and with fewer where space is not well spread.
fn create_commands(
    volume: Volume<'_>,
    size_mib: u64,
    stripes: usize,
    pvs: &[Pv],
) -> Result<Vec<Vec<String>>> {
    if pvs.is_empty() {
        return Err(failed(format!("Can't compute PV info for vg {}", volume.group)));
    }
    let mut pvs: Vec<&Pv> = pvs.iter().collect();
    pvs.sort_by(|a, b| b.free_mib.total_cmp(&a.free_mib));
    if pvs.iter().any(|pv| pv.name.contains(':')) {
        return Err(failed(
            "Some of your PVs have the invalid character ':' in their name, this is not supported - please filter them \
             out in lvm.conf using either 'filter' or 'preferred_names'",
        ));
    }
    let free: f64 = pvs.iter().map(|pv| pv.free_mib).sum();
    #[expect(clippy::cast_precision_loss, reason = "sizes of disks fit 53 bits")]
    let required = size_mib as f64;
    if free < required {
        // Ganeti: what is free is a Python float.
        return Err(failed(format!(
            "Not enough free space: required {size_mib}, available {free:?}"
        )));
    }
    let command = |stripes: usize| {
        let mut argv = words(["lvcreate", "-Wn"]);
        argv.extend([
            format!("-L{size_mib}m"),
            format!("-n{}", volume.name),
            format!("-i{stripes}"),
        ]);
        argv.push(volume.group.to_owned());
        argv.extend(pvs.iter().map(|pv| pv.name.clone()));
        argv
    };
    Ok((1..=stripes.clamp(1, pvs.len())).rev().map(command).collect())
}

/// Ways to make a volume larger: by whole stripes of extents.
fn grow_commands(
    volume: Volume<'_>,
    amount_mib: u64,
    info: &VolumeInfo,
    dry_run: bool,
) -> Vec<Vec<String>> {
    let stripe_kib = (info.extent_kib * info.stripes).max(1);
    let amount_kib = (amount_mib * 1024).next_multiple_of(stripe_kib);
    let command = |policy: &str| {
        let mut argv = words(["lvextend", "-L"]);
        argv.push(format!("+{amount_kib}k"));
        argv.extend(dry_run.then(|| "--test".to_owned()));
        argv.extend(["--alloc".to_owned(), policy.to_owned(), volume.path()]);
        argv
    };
    ALLOC_POLICIES.map(command).into()
}

/// A text as a tag of a volume.
fn tag(text: &str) -> String {
    let letter = |(at, letter): (usize, char)| match letter {
        '-' if at > 0 => letter,
        _ if letter.is_ascii_alphanumeric() || "_+.".contains(letter) => letter,
        _ => '_',
    };
    text.chars().take(TAG_MAX).enumerate().map(letter).collect()
}

// How output is read.

/// A physical volume, as `pvs` shows it.
#[derive(Clone, Debug, PartialEq)]
struct Pv {
    name: String,
    group: String,
    size_mib: f64,
    used_mib: f64,
    free_mib: f64,
    allocatable: bool,
}

const PV_COLUMNS: &str = "pv_name,vg_name,pv_size,pv_used,pv_free,pv_attr";

/// A volume group, as `vgs` shows it.
#[derive(Clone, Debug, PartialEq)]
struct Vg {
    name: String,
    size_mib: f64,
    free_mib: f64,
    writable: bool,
}

const VG_COLUMNS: &str = "vg_name,vg_size,vg_free,vg_attr";

/// A logical volume, as `lvs` shows it.
#[derive(Clone, Debug, PartialEq)]
struct VolumeInfo {
    attr: String,
    extent_kib: u64,
    stripes: u64,
}

/// The columns of each line; lines with more or fewer are told of and left out.
fn rows<const N: usize>(output: &str) -> impl Iterator<Item = [&str; N]> {
    output.lines().map(str::trim).filter(|line| !line.is_empty()).filter_map(|line| {
        let columns: Result<[&str; N], _> = line.split('|').collect::<Vec<_>>().try_into();
        if columns.is_err() {
            tracing::warn!(line, "LVM printed a line that can't be read");
        }
        columns.ok()
    })
}

fn number(text: &str) -> f64 {
    text.trim().parse().unwrap_or(0.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes are no more than 2^53 MiB"
)]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

fn parse_pvs(output: &str) -> Vec<Pv> {
    let pv = |[name, group, size, used, free, attr]: [&str; 6]| Pv {
        name: name.to_owned(),
        group: group.to_owned(),
        size_mib: number(size),
        used_mib: number(used),
        free_mib: number(free),
        allocatable: attr.starts_with('a'),
    };
    rows(output).map(pv).collect()
}

fn parse_vgs(output: &str) -> Vec<Vg> {
    let vg = |[name, size, free, attr]: [&str; 4]| Vg {
        name: name.to_owned(),
        size_mib: number(size),
        free_mib: number(free),
        writable: attr.starts_with('w'),
    };
    rows(output).map(vg).collect()
}

/// One volume among all.
fn parse_volume(output: &str, volume: Volume<'_>) -> Option<VolumeInfo> {
    let mut all = rows(output);
    let found =
        all.find(|[group, name, ..]: &[&str; 8]| (*group, *name) == (volume.group, volume.name));
    found.map(|[_, _, attr, _, _, extent, stripes, _]| VolumeInfo {
        attr: attr.to_owned(),
        extent_kib: whole(number(extent)),
        stripes: whole(number(stripes)),
    })
}

// Running.

async fn run(argv: &[String]) -> Result<Finished> {
    let (program, args) = argv.split_first().expect("a command has a name");
    let ran = Process::new(program, COMMAND_LIMIT).args(args).run().await;
    ran.map_err(|error| failed(error.to_string()))
}

/// Runs commands until one does it; the error is what the last said.
async fn first_that_works(
    commands: &[Vec<String>],
    wrong: impl Fn(&str, &str) -> String,
) -> Result<()> {
    let mut said = String::new();
    for argv in commands {
        let ran = run(argv).await?;
        match ran.failure() {
            None => return Ok(()),
            Some(reason) => said = wrong(&reason, ran.output().trim()),
        }
    }
    Err(failed(said))
}

async fn pvs(name: Option<&str>) -> Result<Vec<Pv>> {
    Ok(parse_pvs(&list("pvs", PV_COLUMNS, name).await?))
}

async fn list(command: &str, columns: &str, name: Option<&str>) -> Result<String> {
    let ran = run(&list_command(command, columns, name)).await?;
    match ran.failure() {
        None => Ok(ran.stdout_text()),
        Some(_) => {
            let said = ran.output();
            Err(failed(format!("Failed to run '{command}', command output: {}", said.trim())))
        }
    }
}

async fn find(volume: Volume<'_>) -> Result<Option<VolumeInfo>> {
    let ran = run(&volumes_command()).await?;
    if ran.failure().is_some() {
        tracing::warn!(output = ran.output().trim(), "lvs failed: no volume can be found");
        return Ok(None);
    }
    Ok(parse_volume(&ran.stdout_text(), volume))
}

#[async_trait]
impl Driver for Lvm {
    async fn create(&self, disk: &DiskSpec) -> Result<()> {
        let volume = Volume::of(disk)?;
        let stripes = disk.params.get("stripes").and_then(Value::as_u64).unwrap_or(1);
        let mut of_group = pvs(None).await?;
        of_group.retain(|pv| pv.allocatable && pv.group == volume.group);
        let stripes = usize::try_from(stripes).unwrap_or(usize::MAX);
        let commands = create_commands(volume, disk.size_mib, stripes, &of_group)?;
        let wrong = |reason: &str, said: &str| format!("LV create failed ({reason}): {said}");
        first_that_works(&commands, wrong).await
    }

    async fn remove(&self, disk: &DiskSpec) -> Result<()> {
        let volume = Volume::of(disk)?;
        if find(volume).await?.is_none() {
            return Ok(());
        }
        let mut argv = words(["lvremove", "-f"]);
        argv.push(format!("{}/{}", volume.group, volume.name));
        first_that_works(&[argv], |reason, said| format!("Can't lvremove: {reason} - {said}")).await
    }

    async fn assemble(&self, disk: &DiskSpec) -> Result<PathBuf> {
        let path = Volume::of(disk)?.path();
        // Ganeti: always, as volumes were seen down after a boot (3.0, `storage/bdev.py` Assemble).
        let argv = words(["lvchange", "-ay", &path]);
        first_that_works(&[argv], |_, said| format!("Can't activate lv {path}: {said}")).await?;
        Ok(path.into())
    }

    async fn shutdown(&self, disk: &DiskSpec) -> Result<()> {
        // Volumes stay up.
        Volume::of(disk).map(drop)
    }

    async fn find(&self, disk: &DiskSpec) -> Result<Option<PathBuf>> {
        let volume = Volume::of(disk)?;
        Ok(find(volume).await?.map(|_| volume.path().into()))
    }

    async fn grow(&self, disk: &DiskSpec, amount_mib: u64, dry_run: bool) -> Result<()> {
        let volume = Volume::of(disk)?;
        let info = find(volume).await?;
        let info = info.ok_or_else(|| failed("Can't attach to LV during Grow()"))?;
        let commands = grow_commands(volume, amount_mib, &info, dry_run);
        let path = volume.path();
        first_that_works(&commands, |_, said| format!("Can't grow LV {path}: {said}")).await
    }

    async fn rename(&self, disk: &DiskSpec, new: &DiskSpec) -> Result<()> {
        let (old, new) = (Volume::of(disk)?, Volume::of(new)?);
        if old.group != new.group {
            return Err(failed(format!(
                "Can't move a logical volume across volume groups (from {} to {})",
                old.group, new.group
            )));
        }
        let argv = words(["lvrename", new.group, old.name, new.name]);
        let wrong = |_: &str, said: &str| format!("Failed to rename the logical volume: {said}");
        first_that_works(&[argv], wrong).await
    }

    /// The volume's tags say whose it is; older ones go.
    async fn set_info(&self, disk: &DiskSpec, info: &str) -> Result<()> {
        let path = Volume::of(disk)?.path();
        let wrong =
            |reason: &str, said: &str| format!("Command: lvchange error: {reason} - {said}");
        let ran = run(&words(["lvs", "-o", "tags", "--noheadings", "--nosuffix", &path])).await?;
        if let Some(reason) = ran.failure() {
            return Err(failed(format!("Command: lvs error: {reason} - {}", ran.output().trim())));
        }
        let tags = ran.stdout_text();
        for old in tags.trim().split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
            first_that_works(&[words(["lvchange", "--deltag", old, &path])], wrong).await?;
        }
        first_that_works(&[words(["lvchange", "--addtag", &tag(info), &path])], wrong).await
    }

    /// A volume whose storage is lost is still listed, as a virtual one.
    async fn is_lost(&self, disk: &DiskSpec) -> Result<bool> {
        let info = find(Volume::of(disk)?).await?;
        Ok(info.is_some_and(|info| info.attr.starts_with('v')))
    }

    async fn size_bytes(&self, disk: &DiskSpec) -> Result<Option<u64>> {
        match self.find(disk).await? {
            Some(path) => device::size_bytes(path).await,
            None => Ok(None),
        }
    }
}

// Storage units.

/// Volume groups or physical volumes, as they are listed.
pub(crate) async fn storage_rows(kind: StorageType, names: &[String]) -> Result<Vec<StorageRow>> {
    let mut found = Vec::new();
    let asked: Vec<Option<&str>> = match names {
        [] => vec![None],
        names => names.iter().map(|name| Some(name.as_str())).collect(),
    };
    for name in asked {
        found.extend(match kind {
            StorageType::LvmPv => pvs(name).await?.iter().map(pv_row).collect::<Vec<_>>(),
            _ => parse_vgs(&list("vgs", VG_COLUMNS, name).await?).iter().map(vg_row).collect(),
        });
    }
    Ok(found)
}

fn pv_row(pv: &Pv) -> StorageRow {
    StorageRow {
        kind: StorageType::LvmPv,
        name: pv.name.clone(),
        size_mib: whole(pv.size_mib),
        used_mib: whole(pv.used_mib),
        free_mib: whole(pv.free_mib),
        allocatable: pv.allocatable,
    }
}

fn vg_row(vg: &Vg) -> StorageRow {
    StorageRow {
        kind: StorageType::LvmVg,
        name: vg.name.clone(),
        size_mib: whole(vg.size_mib),
        used_mib: whole(vg.size_mib).saturating_sub(whole(vg.free_mib)),
        free_mib: whole(vg.free_mib),
        allocatable: true,
    }
}

/// The groups that volumes can be made in; none where there is no LVM.
pub(crate) async fn groups() -> Vec<StorageUnit> {
    if find_program("vgs").is_none() {
        return Vec::new();
    }
    let listed = list("vgs", VG_COLUMNS, None).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "volume groups can't be listed");
        String::new()
    });
    let unit = |vg: Vg| StorageUnit {
        kind: StorageType::LvmVg,
        total_mib: whole(vg.size_mib),
        free_mib: whole(vg.free_mib),
        key: vg.name,
    };
    parse_vgs(&listed).into_iter().filter(|vg| vg.writable).map(unit).collect()
}

const VOLUME_COLUMNS: &str = "lv_name,lv_size,devices,vg_name";

/// Each volume once for each device that it lies on.
fn parse_volumes(output: &str) -> Vec<VolumeRow> {
    let of_row = |[name, size, devices, group]: [&str; 4]| {
        let device = |device: &str| VolumeRow {
            group: group.to_owned(),
            name: name.to_owned(),
            size_mib: whole(number(size).floor()),
            device: device.split('(').next().unwrap_or_default().to_owned(),
        };
        devices.split(',').map(device).collect::<Vec<_>>()
    };
    rows(output).flat_map(of_row).collect()
}

/// All volumes of this machine.
pub(crate) async fn volumes() -> Result<Vec<VolumeRow>> {
    Ok(parse_volumes(&list("lvs", VOLUME_COLUMNS, None).await?))
}

/// Lets new volumes lie on a physical volume, or not.
pub(crate) async fn set_allocatable(name: &str, allocatable: bool) -> Result<()> {
    let argv = words(["pvchange", "--allocatable", if allocatable { "y" } else { "n" }, name]);
    let wrong =
        |_: &str, said: &str| format!("Failed to modify physical volume, pvchange output: {said}");
    first_that_works(&[argv], wrong).await
}

/// Takes physical volumes that are lost out of a group.
pub(crate) async fn repair(group: &str) -> Result<()> {
    check_name(group)?;
    // Ganeti: its exit code says little; what counts is what `vgs` finds after it (3.0, `storage/container.py`).
    let mut said = run(&words(["vgreduce", "--removemissing", group])).await?.output();
    let done = said.contains("Wrote out consistent volume group");
    if !done || said.contains("vgreduce --removemissing --force") {
        let forced = run(&words(["vgreduce", "--removemissing", "--force", group])).await?;
        said = format!("{said}\n{}", forced.output());
    }
    let looked = run(&words(["vgs", "--noheadings", "--nosuffix", group])).await?;
    if looked.failure().is_none() && !looked.output().contains("Couldn't find device with uuid") {
        return Ok(());
    }
    Err(failed(format!(
        "Volume group '{group}' still not consistent, 'vgreduce' output: {said:?}, 'vgs' output: {:?}",
        looked.output()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: Volume<'_> = Volume { group: "xenvg", name: "a1.disk0" };

    fn pv(name: &str, free_mib: f64) -> Pv {
        let (size_mib, used_mib) = (100.0, 100.0 - free_mib);
        Pv {
            name: name.into(),
            group: "xenvg".into(),
            size_mib,
            used_mib,
            free_mib,
            allocatable: true,
        }
    }

    fn lines(commands: &[Vec<String>]) -> Vec<String> {
        commands.iter().map(|argv| argv.join(" ")).collect()
    }

    #[test]
    fn volumes_are_made_with_fewer_and_fewer_stripes() {
        let commands =
            create_commands(VOLUME, 64, 2, &[pv("/dev/sda", 40.0), pv("/dev/sdb", 60.0)]);
        let expected = [
            "lvcreate -Wn -L64m -na1.disk0 -i2 xenvg /dev/sdb /dev/sda",
            "lvcreate -Wn -L64m -na1.disk0 -i1 xenvg /dev/sdb /dev/sda",
        ];
        assert_eq!(lines(&commands.unwrap()), expected);
        let one = create_commands(VOLUME, 64, 5, &[pv("/dev/sda", 64.0)]).unwrap();
        assert_eq!(lines(&one), ["lvcreate -Wn -L64m -na1.disk0 -i1 xenvg /dev/sda"]);
        let check = |pvs: &[Pv], expected: &str| {
            let error = create_commands(VOLUME, 64, 1, pvs).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        };
        check(&[], "Can't compute PV info for vg xenvg");
        check(&[pv("/dev/sda", 63.5)], "Not enough free space: required 64, available 63.5");
        check(&[pv("/dev/a:b", 64.0)], "Some of your PVs have the invalid character ':'");
    }

    #[test]
    fn volumes_grow_by_whole_stripes() {
        let info = VolumeInfo { attr: "-wi-ao----".into(), extent_kib: 4096, stripes: 3 };
        let expected = [
            "lvextend -L +12288k --test --alloc contiguous /dev/xenvg/a1.disk0",
            "lvextend -L +12288k --test --alloc cling /dev/xenvg/a1.disk0",
            "lvextend -L +12288k --test --alloc normal /dev/xenvg/a1.disk0",
        ];
        assert_eq!(lines(&grow_commands(VOLUME, 5, &info, true)), expected);
        let exact = &lines(&grow_commands(VOLUME, 24, &info, false))[0];
        assert_eq!(exact, "lvextend -L +24576k --alloc contiguous /dev/xenvg/a1.disk0");
    }

    #[test]
    fn lists_are_asked_for_and_read() {
        assert_eq!(
            list_command("vgs", VG_COLUMNS, Some("xenvg")).join(" "),
            "vgs --noheadings --units=m --nosuffix --separator=| --options vg_name,vg_size,vg_free,vg_attr xenvg"
        );
        assert_eq!(
            volumes_command().join(" "),
            "lvs --noheadings --separator=| --units=k --nosuffix \
             -ovg_name,lv_name,lv_attr,lv_kernel_major,lv_kernel_minor,vg_extent_size,stripes,devices"
        );
        let vgs = parse_vgs("  xenvg|60.00|52.40|wz--n-\n\n  odd line\n  old|1.00|0|r-----\n");
        let names: Vec<_> = vgs.iter().map(|vg| (vg.name.as_str(), vg.writable)).collect();
        assert_eq!(names, [("xenvg", true), ("old", false)]);
        let row = vg_row(&vgs[0]);
        assert_eq!((row.size_mib, row.used_mib, row.free_mib, row.allocatable), (60, 8, 52, true));
        let pvs = parse_pvs("  /dev/sda|xenvg|60.00|8.00|52.00|a--\n  /dev/sdb||9.00|0|9.00|---\n");
        let row = pv_row(&pvs[1]);
        assert_eq!((row.size_mib, row.free_mib, row.allocatable), (9, 9, false));
        assert_eq!((pvs[0].group.as_str(), pvs[0].allocatable), ("xenvg", true));
        let output = "  xenvg|root|-wi-ao----|254|0|4096.00|1|/dev/sda(0)\n  \
                      xenvg|a1.disk0|vwi---tz--|-1|-1|8192.00|2|\n";
        let expected = VolumeInfo { attr: "vwi---tz--".into(), extent_kib: 8192, stripes: 2 };
        assert_eq!(parse_volume(output, VOLUME), Some(expected));
        assert_eq!(parse_volume(output, Volume { group: "xenvg", name: "b" }), None);
    }

    #[test]
    fn volumes_lie_on_devices() {
        let output = "  root|59.60|/dev/sda(0)|xenvg\n  wide|8.00|/dev/sda(15),/dev/sdb(0)|xenvg\n";
        let found = parse_volumes(output);
        let found: Vec<_> = found
            .iter()
            .map(|row| (row.name.as_str(), row.size_mib, row.device.as_str()))
            .collect();
        let expected = [("root", 59, "/dev/sda"), ("wide", 8, "/dev/sda"), ("wide", 8, "/dev/sdb")];
        assert_eq!(found, expected);
    }

    #[test]
    fn names_and_tags() {
        for good in ["xenvg", "a1-b.disk0_data", "A+b"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", "snapshot", "a b", "a/b", "-a", "x_mlogy"] {
            let error = check_name(bad).unwrap_err().to_string();
            assert_eq!(error, format!("Invalid LVM name '{bad}'"));
        }
        assert_eq!(tag("originstname+web.example.com"), "originstname+web.example.com");
        assert_eq!(tag("-a b/c-d"), "_a_b_c-d");
        assert_eq!(tag(&"x".repeat(200)).len(), 128);
    }

    /// Here there is LVM or there is not: either way what is said against it is its own text.
    #[tokio::test]
    async fn what_is_not_there_is_told() {
        let disk: DiskSpec = serde_json::from_value(serde_json::json!({
            "uuid": "u", "name": null, "iv_name": "disk/0", "dev_type": "plain",
            "logical_id": ["no-such-group", "a1.disk0"], "size_mib": 8, "mode": "rw",
            "spindles": null, "nodes": [], "params": {}, "children": [],
        }))
        .unwrap();
        let error = Lvm.create(&disk).await.unwrap_err().to_string();
        let expected = ["Can't compute PV info for vg no-such-group", "can't run pvs: "];
        assert!(expected.iter().any(|text| error.starts_with(text)), "{error}");
        assert!(groups().await.iter().all(|group| group.key != "no-such-group"));
    }
}
