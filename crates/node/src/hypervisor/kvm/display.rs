//! What an instance shows and hears: VNC, SPICE, the graphics card, pointers, USB devices and sound, as arguments of QEMU. Pure, and
//! mostly tables; golden tests hold its form.

use std::net::IpAddr;
use std::path::Path;

use serde_json::Value;

use super::command_line::{Args, VNC_BASE_PORT, escaped, unsupported};
use crate::spec::InstanceSpec;
use crate::{NodeError, Result};

/// Where certificates for SPICE lie, below the data directory: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`.
pub(crate) const SPICE_CERTIFICATES: &str = "spice";

/// Texts of SPICE that QEMU takes as they are: the parameter, and QEMU's option.
const SPICE_TEXTS: &[(&str, &str)] = &[
    ("spice_image_compression", "image-compression"),
    ("spice_jpeg_wan_compression", "jpeg-wan-compression"),
    ("spice_zlib_glz_wan_compression", "zlib-glz-wan-compression"),
    ("spice_streaming_video", "streaming-video"),
];
/// Flags of SPICE: what is said when they are not set.
const SPICE_FLAGS: &[(&str, &str)] = &[
    ("spice_playback_compression", "playback-compression=off"),
    ("spice_use_vdagent", "agent-mouse=off"),
];

/// Sound cards by the names of QEMU's former option `-soundhw`: the devices that each is now. The last one plays.
const SOUND: &[(&str, &[&str])] = &[
    ("ac97", &["AC97"]),
    ("es1370", &["ES1370"]),
    ("gus", &["gus"]),
    ("hda", &["intel-hda", "hda-duplex"]),
    ("sb16", &["sb16"]),
];

/// USB devices by the names of QEMU's former option `-usbdevice`.
const USB: &[(&str, &str)] = &[
    ("keyboard", "usb-kbd"),
    ("mouse", "usb-mouse"),
    ("tablet", "usb-tablet"),
    ("wacom-tablet", "usb-wacom-tablet"),
];

/// The address that a VNC server is bound to, if it is one and not a directory.
pub(crate) fn vnc_address(spec: &InstanceSpec) -> Option<IpAddr> {
    spec.hv("vnc_bind_address").parse().ok()
}

/// Everything. `data_dir` is where certificates are.
pub(crate) fn display(args: &mut Args, spec: &InstanceSpec, data_dir: &Path) -> Result<()> {
    let (vnc, spice) = (!spec.hv("vnc_bind_address").is_empty(), !spec.hv("spice_bind").is_empty());
    match (vnc, spice) {
        // Ganeti's words (3.0, `hv_kvm/validation.py`).
        (true, true) => {
            return Err(NodeError::Failed("Both SPICE and VNC are configured, but only one of them can be used at a given time".into()));
        }
        (true, false) => vnc_server(args, spec)?,
        (false, true) => spice_server(args, spec, data_dir)?,
        (false, false) => args.pair("-display", "none"),
    }
    // Ganeti: SPICE gets its own card; otherwise it is QEMU's usual one, which is there without any viewer too (3.0, `hv_kvm`).
    let card = match spec.hv("vga") {
        "" if spice => "qxl",
        "" => "std",
        card => card,
    };
    args.pair("-vga", card);
    if !spec.hv("keymap").is_empty() {
        args.pair("-k", spec.hv("keymap"));
    }
    sound(args, spec, spice)?;
    usb(args, spec, vnc)
}

fn port(spec: &InstanceSpec) -> u16 {
    spec.network_port.unwrap_or(0)
}

fn vnc_server(args: &mut Args, spec: &InstanceSpec) -> Result<()> {
    let bind = spec.hv("vnc_bind_address");
    let mut options = if let Some(address) = vnc_address(spec) {
        let port = port(spec);
        let display = port.checked_sub(VNC_BASE_PORT).filter(|_| port > VNC_BASE_PORT);
        let Some(display) = display else {
            let text = format!("network port {port} is no VNC display: it must be above 5900");
            return Err(NodeError::Failed(text));
        };
        match address {
            IpAddr::V4(address) => format!("{address}:{display}"),
            IpAddr::V6(address) => format!("[{address}]:{display}"),
        }
    } else if bind.starts_with('/') {
        format!("unix:{}", escaped(&Path::new(bind).join(format!("{}.vnc", spec.name))))
    } else {
        // Ganeti's words (3.0, `hv_kvm/validation.py`).
        return Err(NodeError::Failed("VNC: The vnc_bind_address parameter must be either a valid IP address, an interface name, or an absolute path".into()));
    };
    // Ganeti: a socket has no encryption (3.0, `hv_kvm`).
    if spec.hv_flag("vnc_tls") && vnc_address(spec).is_some() {
        let directory = spec.hv("vnc_x509_path");
        let credentials = match directory {
            "" => "tls-creds-anon,id=vnctls0,endpoint=server".to_owned(),
            directory => {
                let verify = if spec.hv_flag("vnc_x509_verify") { "yes" } else { "no" };
                let directory = escaped(Path::new(directory));
                format!(
                    "tls-creds-x509,id=vnctls0,endpoint=server,dir={directory},verify-peer={verify}"
                )
            }
        };
        args.pair("-object", credentials);
        options.push_str(",tls-creds=vnctls0");
    }
    if !spec.hv("vnc_password_file").is_empty() {
        options.push_str(",password=on");
    }
    args.pair("-vnc", options);
    Ok(())
}

fn spice_server(args: &mut Args, spec: &InstanceSpec, data_dir: &Path) -> Result<()> {
    let Ok(address) = spec.hv("spice_bind").parse::<IpAddr>() else {
        // Ganeti's words (3.0, `hv_kvm/validation.py`).
        return Err(NodeError::Failed(
            "SPICE: The spice_bind parameter must be either a valid IP address or interface name"
                .into(),
        ));
    };
    let mut options = vec![format!("addr={address}")];
    let port = port(spec);
    if spec.hv_flag("spice_use_tls") {
        options.push(format!("tls-port={port}"));
        options.push(format!("x509-dir={}", escaped(&data_dir.join(SPICE_CERTIFICATES))));
        if !spec.hv("spice_tls_ciphers").is_empty() {
            options.push(format!("tls-ciphers={}", spec.hv("spice_tls_ciphers")));
        }
    } else {
        options.push(format!("port={port}"));
    }
    if spec.hv("spice_password_file").is_empty() {
        options.push("disable-ticketing=on".into());
    }
    if let Some(version @ (4 | 6)) = spec.hvparams.get("spice_ip_version").and_then(Value::as_u64) {
        options.push(format!("ipv{version}=on"));
    }
    let given = SPICE_TEXTS.iter().filter(|(name, _)| !spec.hv(name).is_empty());
    options.extend(given.map(|(name, option)| format!("{option}={}", spec.hv(name))));
    let unset = SPICE_FLAGS.iter().filter(|(name, _)| !spec.hv_flag(name));
    options.extend(unset.map(|(_, option)| (*option).to_owned()));
    if spec.hv_flag("spice_use_vdagent") {
        args.pair("-device", "virtio-serial-pci,id=spice");
        args.pair(
            "-device",
            "virtserialport,bus=spice.0,chardev=spicechannel0,name=com.redhat.spice.0",
        );
        args.pair("-chardev", "spicevmc,id=spicechannel0,name=vdagent");
    }
    args.pair("-spice", options.join(","));
    Ok(())
}

fn sound(args: &mut Args, spec: &InstanceSpec, spice: bool) -> Result<()> {
    let wanted = spec.hv("soundhw");
    if wanted.is_empty() {
        return Ok(());
    }
    // What nobody can hear is played to nobody.
    args.pair("-audiodev", format!("{},id=sound0", if spice { "spice" } else { "none" }));
    for name in wanted.split(',').map(str::trim) {
        let card = SOUND.iter().find(|(known, _)| *known == name);
        let Some((_, devices)) = card else {
            let known: Vec<&str> = SOUND.iter().map(|(name, _)| *name).collect();
            let text = format!(
                "hypervisor parameter soundhw: '{name}' is not known, only {}",
                known.join(", ")
            );
            return Err(unsupported(text));
        };
        let last = devices.len() - 1;
        for (at, device) in devices.iter().enumerate() {
            let plays = if at == last { ",audiodev=sound0" } else { "" };
            args.pair("-device", format!("{device}{plays}"));
        }
    }
    Ok(())
}

fn usb(args: &mut Args, spec: &InstanceSpec, vnc: bool) -> Result<()> {
    // Ganeti: with VNC and no mouse chosen, a tablet, whose pointer stays with the viewer's (3.0, `hv_kvm`).
    let pointer = match spec.hv("usb_mouse") {
        "" if vnc => "tablet",
        pointer => pointer,
    };
    let more = spec.hv("usb_devices").split(',').map(str::trim);
    let wanted: Vec<&str> =
        std::iter::once(pointer).chain(more).filter(|name| !name.is_empty()).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    args.flag("-usb");
    for name in wanted {
        let known =
            USB.iter().find(|(known, _)| *known == name).map(|(_, device)| (*device).to_owned());
        let Some(device) = known.or_else(|| host_device(name)) else {
            return Err(unsupported(format!(
                "hypervisor parameter usb_devices: '{name}' is not known, only keyboard, mouse, tablet, wacom-tablet, host:BUS.ADDRESS and host:VENDOR:PRODUCT"
            )));
        };
        args.pair("-device", device);
    }
    Ok(())
}

/// A device of the node itself: `host:BUS.ADDRESS`, or `host:VENDOR:PRODUCT` in hexadecimal.
fn host_device(name: &str) -> Option<String> {
    let which = name.strip_prefix("host:")?;
    if let Some((bus, address)) = which.split_once('.') {
        let (bus, address): (u16, u16) = (bus.parse().ok()?, address.parse().ok()?);
        return Some(format!("usb-host,hostbus={bus},hostaddr={address}"));
    }
    let (vendor, product) = which.split_once(':')?;
    let vendor = u16::from_str_radix(vendor, 16).ok()?;
    let product = u16::from_str_radix(product, 16).ok()?;
    Some(format!("usb-host,vendorid={vendor:#06x},productid={product:#06x}"))
}
