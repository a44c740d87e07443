//! Disks of real instances through the remote API: they come, grow and go under a running guest, change their template, are
//! adopted devices, and lie with a provider of external storage. It needs root, for loop devices.

#![expect(clippy::print_stdout, reason = "says how far it got")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};

use crate::guest::{Viewer, first_node, request, succeed};
use crate::machine;
use crate::server::{self, Place};

const NAME: &str = "web.example.com";
const PATH: &str = "/2/instances/web.example.com";
const MAIL: &str = "mail.example.com";
const TEMPLATES: &str = "--enabled-disk-templates=file,sharedfile,blockdev,ext,diskless";

/// A provider whose volumes are files behind loop devices.
const PROVIDER: &[(&str, &str)] = &[
    ("create", "truncate -s ${VOL_SIZE}M \"$EXTP_SHELF/$VOL_NAME\""),
    ("remove", "rm -f \"$EXTP_SHELF/$VOL_NAME\""),
    (
        "attach",
        "file=\"$EXTP_SHELF/$VOL_NAME\"; [ -e \"$file\" ] || exit 1\n\
         found=$(losetup -n -O NAME -j \"$file\" | head -n 1); [ -n \"$found\" ] || found=$(losetup -f --show \"$file\")\n\
         printf %s \"$found\"",
    ),
    ("detach", "losetup -n -O NAME -j \"$EXTP_SHELF/$VOL_NAME\" | xargs -r losetup -d"),
    (
        "grow",
        "file=\"$EXTP_SHELF/$VOL_NAME\"; truncate -s ${VOL_NEW_SIZE}M \"$file\"\n\
         losetup -n -O NAME -j \"$file\" | xargs -r losetup -c",
    ),
    ("setinfo", "echo \"$VOL_METADATA\" > \"$EXTP_SHELF/$VOL_NAME.info\""),
    ("verify", "exit 0"),
];

pub(crate) fn run() -> Result<()> {
    let base = tempfile::tempdir()?;
    let place = Place::new(machine::rapid("debug")?, base.path())?;
    let mut clock = Clock(Instant::now());
    place.init(&[TEMPLATES, "disks.example.com"])?;
    let mut install = Command::new(&place.program);
    machine::run(install.args(["os", "install", "tiny", "--data-dir"]).arg(place.data_dir()))?;
    let shelf = provider(&place)?;
    // Whatever happens, no loop device stays behind.
    let _loops = Loops(base.path().to_owned());
    clock.lap("tiny and a provider were made");
    server::runtime()?.block_on(lives(&place, &shelf, &mut clock))
}

/// Makes the provider `loops`, and answers where its volumes lie.
fn provider(place: &Place) -> Result<PathBuf> {
    let (dir, shelf) = (place.data_dir().join("extstorage/loops"), place.path("shelf"));
    fs::create_dir_all(&dir)?;
    fs::create_dir_all(&shelf)?;
    for (name, text) in PROVIDER {
        fs::write(dir.join(name), format!("#!/bin/sh\nset -e\n{text}\n"))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755))?;
    }
    fs::write(dir.join("parameters.list"), "shelf where volumes lie\n")?;
    Ok(shelf)
}

/// Loop devices on files below a directory, taken down at the end.
struct Loops(PathBuf);

impl Drop for Loops {
    fn drop(&mut self) {
        let listed = Command::new("losetup").args(["-n", "-O", "NAME,BACK-FILE"]).output();
        let text = listed.map(|said| said.stdout).unwrap_or_default();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut words = line.split_whitespace();
            if let (Some(device), Some(file)) = (words.next(), words.next())
                && Path::new(file).starts_with(&self.0)
            {
                // It may be in use by what a failed test left running.
                let _ = Command::new("losetup").args(["-d", device]).status();
            }
        }
    }
}

/// A name of a device, for as long as it is needed.
struct ByName(PathBuf);

impl Drop for ByName {
    fn drop(&mut self) {
        // Making it may have failed.
        let _ = fs::remove_file(&self.0);
    }
}

async fn lives(place: &Place, shelf: &Path, clock: &mut Clock) -> Result<()> {
    let data_dir = place.data_dir();
    let server = place.start::<&str>(&[]).await?;
    let client = server.client()?;
    let node = first_node(&client).await?;
    let asked = request(NAME, &node, "Hello");
    run_job(&client, Method::Post, "/2/instances", asked).await?;
    let mut viewer = up(&data_dir).await?;
    clock.lap("a guest was up");

    comes_and_goes(&client, &mut viewer).await?;
    clock.lap("a disk came, grew and went while it ran");
    say(&mut viewer, "echo kept > /root/kept; sync; echo is-$((1 + 1))", "is-2").await?;
    change(&client, "shutdown", json!({})).await?;

    for (template, params) in [
        ("sharedfile", json!({})),
        ("ext", json!({"ext_params": {"provider": "loops", "shelf": shelf}})),
    ] {
        let mut body = json!({"disk_template": template});
        body.as_object_mut()
            .context("an object")?
            .extend(params.as_object().cloned().unwrap_or_default());
        change(&client, "modify", body).await?;
        let instance = client.call(Method::Get, PATH, &[], None).await?;
        ensure!(instance["disk_template"] == template, "the template: {instance}");
    }
    let rows = fs::read_dir(data_dir.join("file-storage").join(NAME)).map(Iterator::count);
    ensure!(!matches!(rows, Ok(1..)), "the old disks are gone");
    change(&client, "startup", json!({})).await?;
    let mut viewer = up(&data_dir).await?;
    say(&mut viewer, "echo k-$(cat /root/kept)", "k-kept").await?;
    run_job(&client, Method::Post, &format!("{PATH}/disk/0/grow"), json!({"amount": 16})).await?;
    say(&mut viewer, "echo vda=$(cat /sys/class/block/vda/size)", "vda=294912").await?;
    clock.lap("its disk was copied to a provider's volume, from which it booted, and grew there");

    adopts(place, &client, &node, shelf).await?;
    clock.lap("a device was adopted");
    run_job(&client, Method::Delete, PATH, json!({"shutdown_timeout": 0})).await?;
    let left: Vec<_> = fs::read_dir(shelf)?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.iter().all(|name| name.to_string_lossy().ends_with(".info")), "left: {left:?}");
    server.stop().await
}

/// A disk is plugged in, grown twice, pulled out, detached and attached again, all under the guest.
async fn comes_and_goes(client: &Client, viewer: &mut Viewer) -> Result<()> {
    let notes = async |changes: Value| -> Result<String> {
        let job = change(client, "modify", json!({"disks": changes, "hotplug": true})).await?;
        Ok(job["opresult"][0].to_string())
    };
    let added = notes(json!([["add", -1, {"size": 16, "name": "data"}]])).await?;
    ensure!(added.contains(r#"["disk/1","hotplug:done"]"#), "{added}");
    say(viewer, "sleep 1; echo data > /dev/vdb; sync; echo vdb=$(head -n 1 /dev/vdb)", "vdb=data")
        .await?;
    let grow = format!("{PATH}/disk/1/grow");
    run_job(client, Method::Post, &grow, json!({"amount": 8})).await?;
    say(viewer, "echo one=$(cat /sys/class/block/vdb/size)", "one=49152").await?;
    run_job(client, Method::Post, &grow, json!({"amount": 32, "absolute": true})).await?;
    say(viewer, "echo two=$(cat /sys/class/block/vdb/size)", "two=65536").await?;
    let detached = notes(json!([["detach", "data", {}]])).await?;
    ensure!(detached.contains(r#"["disk/1","hotplug:done"]"#), "{detached}");
    say(viewer, "sleep 1; echo gone=$(ls /dev/vdb 2>&1 | grep -c such)", "gone=1").await?;
    let attached = notes(json!([["attach", -1, {"name": "data"}]])).await?;
    ensure!(attached.contains(r#"["disk/1","hotplug:done"]"#), "{attached}");
    say(viewer, "sleep 1; echo again=$(head -n 1 /dev/vdb)", "again=data").await?;
    let removed = notes(json!([["remove", 1, {}]])).await?;
    ensure!(removed.contains(r#"["disk/1","hotplug:done"]"#), "{removed}");
    say(viewer, "sleep 1; echo removed=$(ls /dev/vdb 2>&1 | grep -c such)", "removed=1").await
}

/// An instance takes a device over, cannot grow it, and leaves it where it was.
async fn adopts(place: &Place, client: &Client, node: &str, shelf: &Path) -> Result<()> {
    let file = place.path("device");
    let volumes = fs::read_dir(shelf)?.flatten().map(|entry| entry.path());
    let volume = volumes.into_iter().find(|path| path.extension().is_none_or(|end| end != "info"));
    // A guest writes to it still: what boots from the copy has to read its journal.
    fs::copy(volume.context("the provider has no volume")?, &file)?;
    let said = Command::new("losetup").args(["-f", "--show"]).arg(&file).output()?;
    ensure!(said.status.success(), "losetup: {}", String::from_utf8_lossy(&said.stderr));
    // Ganeti takes devices over by a name that lasts.
    let name = place.dir.file_name().context("a directory has a name")?.to_string_lossy();
    let link = ByName(format!("/dev/disk/rapid{name}").into());
    fs::create_dir_all("/dev/disk")?;
    symlink(String::from_utf8(said.stdout)?.trim(), &link.0)?;
    let device = link.0.display().to_string();
    let web = client.call(Method::Get, PATH, &[], None).await?;
    let mut asked = request(MAIL, node, "Hello");
    // What is on the disk stays: Debian's definition touches nothing.
    asked["os_type"] = json!("noop");
    asked["osparams"] = json!({});
    asked["hvparams"] = ["kernel_path", "initrd_path", "root_path", "kernel_args"]
        .into_iter()
        .map(|name| (name.to_owned(), web["hvparams"][name].clone()))
        .collect();
    asked["disk_template"] = json!("blockdev");
    asked["disks"] = json!([{"size": 1, "adopt": device}]);
    asked["start"] = json!(false);
    run_job(client, Method::Post, "/2/instances", asked).await?;
    let path = "/2/instances/mail.example.com";
    let instance = client.call(Method::Get, path, &[], None).await?;
    ensure!(instance["disk.sizes"] == json!([144]), "its true size: {instance}");
    let job = client
        .submit(Method::Post, &format!("{path}/disk/0/grow"), &[], Some(&json!({"amount": 1})))
        .await?;
    let refused = client.wait(job, |_| {}).await?.to_string();
    let text = "disk layout blockdev does not support growing";
    ensure!(refused.contains(text), "grow: {refused}");
    run_job(client, Method::Put, &format!("{path}/startup"), json!({})).await?;
    let mut viewer = Viewer::attach(&place.data_dir(), MAIL, |_| {}).await?;
    // It has the name of the instance that the disk is a copy of.
    viewer.wait(&format!("GUEST-UP {NAME}")).await?;
    run_job(client, Method::Delete, path, json!({"shutdown_timeout": 0})).await?;
    ensure!(Path::new(&device).exists() && shelf.exists(), "the device stays");
    Ok(())
}

/// Waits until the guest answers.
async fn up(data_dir: &Path) -> Result<Viewer> {
    let mut viewer = Viewer::attach(data_dir, NAME, |_| {}).await?;
    viewer.wait("GUEST-UP web.example.com").await?;
    viewer.wait("# ").await?;
    Ok(viewer)
}

/// Types a command, which must not hold the text that is waited for.
async fn say(viewer: &mut Viewer, command: &str, text: &str) -> Result<()> {
    viewer.line(command).await?;
    viewer.wait(text).await?;
    Ok(())
}

async fn change(client: &Client, what: &str, body: Value) -> Result<Value> {
    run_job(client, Method::Put, &format!("{PATH}/{what}"), body).await
}

async fn run_job(client: &Client, method: Method, path: &str, body: Value) -> Result<Value> {
    let job = client.submit(method, path, &[], Some(&body)).await?;
    succeed(client, job, |_| {}).await
}

/// Says how long each part took.
struct Clock(Instant);

impl Clock {
    fn lap(&mut self, what: &str) {
        println!("{:6.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
