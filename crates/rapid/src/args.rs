//! The command line. Options of `serve` that `ganeti-rapi` has are called as there; options of `cluster init` as those of
//! `gnt-cluster init`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::compat::Compat;

/// The remote management of virtual machine clusters: Ganeti's remote API over a cluster of its own.
#[derive(Parser, Debug)]
#[command(name = "rapid", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Serve the remote API; makes a cluster when there is none.
    Serve(Box<Serve>),
    /// Make a cluster, or look at one.
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Manage who may use the API.
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Manage the operating systems that instances can have.
    Os {
        #[command(subcommand)]
        command: OsCommand,
    },
    /// Attach to the serial console of an instance; Ctrl-] leaves.
    Console(Console),
    /// Write a picture of what an instance of this machine shows on its screen, as PNG.
    Screenshot(Screenshot),
}

/// Where the cluster keeps its files.
#[derive(Args, Clone, Debug)]
pub(crate) struct DataDir {
    /// The directory of the cluster's data.
    #[arg(long, value_name = "DIR", default_value = "rapid-data", env = "RAPID_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Serve {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The TCP port; 0 lets the kernel choose one.
    #[arg(short, long, default_value_t = rapi::serve::PORT)]
    pub(crate) port: u16,
    /// The address to listen on; the loopback addresses by default.
    #[arg(short, long, value_name = "ADDRESS", conflicts_with = "interface")]
    pub(crate) bind: Option<IpAddr>,
    /// The network interface whose first address is listened on.
    #[arg(short, long, value_name = "INTERFACE")]
    pub(crate) interface: Option<String>,
    /// Stay in the foreground, which `rapid serve` always does.
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Log more.
    #[arg(short, long)]
    pub(crate) debug: bool,
    /// Speak plain HTTP.
    #[arg(long)]
    pub(crate) no_ssl: bool,
    /// The TLS key, as PEM; by default in the certificate's file.
    #[arg(short = 'K', long, value_name = "FILE")]
    pub(crate) ssl_key: Option<PathBuf>,
    /// The TLS certificate, as PEM; by default rapi.pem in the data directory, made when it is not there.
    #[arg(short = 'C', long, value_name = "FILE")]
    pub(crate) ssl_cert: Option<PathBuf>,
    /// Certificates between ours and one that clients know, as PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_chain: Option<PathBuf>,
    /// Refuse every request without valid credentials.
    #[arg(long)]
    pub(crate) require_authentication: bool,
    /// How many requests are at work at the same time.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) max_clients: usize,
    /// Log to the system log: not, too, or only.
    #[arg(long, value_name = "WHERE", default_value = "no")]
    pub(crate) syslog: Syslog,
    /// The users; by default the file `users` in the data directory, made with a user `admin` when it is not there.
    #[arg(long, value_name = "FILE")]
    pub(crate) users_file: Option<PathBuf>,
    /// How log lines are written.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// An origin whose web pages may use the API, as `https://console.example.com`; may be given again.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// What the API is served for: a cluster of its own, or the Ganeti cluster whose master this machine is. With the latter
    /// users and certificate are Ganeti's own unless they are named.
    #[arg(long, value_name = "ENGINE", default_value = "embedded")]
    pub(crate) engine: Behind,
    /// The socket of Ganeti's master daemon, for the engine `luxi`; by default Ganeti's own, below `GANETI_ROOTDIR` where that is set.
    #[arg(long, value_name = "PATH")]
    pub(crate) luxi_socket: Option<PathBuf>,
    /// Make a simulated cluster of so many nodes, if there is no cluster yet.
    #[arg(long, value_name = "N")]
    pub(crate) simulate_nodes: Option<usize>,
    /// Let Ganeti's own tools work on this cluster: keep the files that they look for, and speak LUXI, below this directory,
    /// whose last part must be the master node's name.
    #[arg(long, value_name = "DIR")]
    pub(crate) ganeti_root: Option<PathBuf>,
    /// How often the watcher looks whether what should run runs, in seconds; 0 is never. It looks each minute, and never on a
    /// simulated cluster, unless this says otherwise.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) watcher_interval: Option<u64>,
    /// Hold each instance of this machine within its memory and virtual processors by control groups, from its next start on.
    #[arg(long)]
    pub(crate) limit_instances: bool,
    /// The Ganeti release whose fields and defaults are spoken: 3.0 or 3.1. With the engine `luxi` it is the cluster's own.
    #[arg(long, value_name = "RELEASE", default_value = "3.1")]
    pub(crate) compat: Compat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Behind {
    /// A cluster of its own.
    Embedded,
    /// A real Ganeti cluster, by the protocol LUXI.
    Luxi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Syslog {
    No,
    Yes,
    Only,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ClusterCommand {
    /// Make a cluster with chosen names before the first start.
    Init(Box<ClusterInit>),
    /// Replace the secret that this cluster shares with others, to move instances between them. A server that runs uses it
    /// at once.
    RenewCrypto(RenewCrypto),
}

#[derive(Args, Debug)]
pub(crate) struct RenewCrypto {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The secret, the one line of a file.
    #[arg(long, value_name = "FILE", required_unless_present = "new_cluster_domain_secret")]
    pub(crate) cluster_domain_secret: Option<PathBuf>,
    /// Make a new secret.
    #[arg(long, conflicts_with = "cluster_domain_secret")]
    pub(crate) new_cluster_domain_secret: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ClusterInit {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The cluster's name.
    pub(crate) name: String,
    /// The names of simulated nodes; without it the cluster has one node, this machine. Their addresses are those in the
    /// file `hosts` of the data directory, in the format of /etc/hosts, or made up.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) simulate_nodes: Vec<String>,
    /// The hypervisors; the first is the default.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) enabled_hypervisors: Vec<String>,
    /// The disk templates; the first is the default.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) enabled_disk_templates: Vec<String>,
    /// NIC parameters: `mode=bridged,link=br0`
    #[arg(short = 'N', long, value_name = "PARAMETERS")]
    pub(crate) nic_parameters: Option<String>,
    /// Backend parameters: `maxmem=512,vcpus=2`
    #[arg(short = 'B', long, value_name = "PARAMETERS")]
    pub(crate) backend_parameters: Option<String>,
    /// Hypervisor parameters: `kvm:kernel_path=,serial_console=false`; may be given again.
    #[arg(short = 'H', long, value_name = "HYPERVISOR:PARAMETERS")]
    pub(crate) hypervisor_parameters: Vec<String>,
    /// Disk parameters: `drbd:metavg=xenvg`; may be given again.
    #[arg(short = 'D', long, value_name = "TEMPLATE:PARAMETERS")]
    pub(crate) disk_parameters: Vec<String>,
    /// Node parameters: `spindle_count=2`
    #[arg(long, value_name = "PARAMETERS")]
    pub(crate) node_parameters: Option<String>,
    /// Bounds of instances: `min:disk-size=0,…/max:disk-size=1048576,…`
    #[arg(long, value_name = "SPECS")]
    pub(crate) ipolicy_bounds_specs: Option<String>,
    /// The standard instance: `disk-size=1024,…`
    #[arg(long, value_name = "SPECS")]
    pub(crate) ipolicy_std_specs: Option<String>,
    /// Disk templates that the instance policy allows.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) ipolicy_disk_templates: Vec<String>,
    /// Virtual CPUs for each physical one.
    #[arg(long, value_name = "RATIO")]
    pub(crate) ipolicy_vcpu_ratio: Option<f64>,
    /// Instances' use of spindles for each spindle.
    #[arg(long, value_name = "RATIO")]
    pub(crate) ipolicy_spindle_ratio: Option<f64>,
    /// The directory of file-based disks.
    #[arg(long, value_name = "DIR")]
    pub(crate) file_storage_dir: Option<String>,
    /// The directory of disks in files that all nodes share.
    #[arg(long, value_name = "DIR")]
    pub(crate) shared_file_storage_dir: Option<String>,
    /// Where gluster volumes are mounted.
    #[arg(long, value_name = "DIR")]
    pub(crate) gluster_storage_dir: Option<String>,
    /// The volume group.
    #[arg(long, value_name = "NAME")]
    pub(crate) vg_name: Option<String>,
    /// The usermode helper that DRBD runs.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) drbd_usermode_helper: Option<String>,
    /// The first three octets of MAC addresses.
    #[arg(short, long, value_name = "PREFIX")]
    pub(crate) mac_prefix: Option<String>,
    /// The network device of the cluster's address.
    #[arg(long, value_name = "DEVICE")]
    pub(crate) master_netdev: Option<String>,
    /// The netmask of the cluster's address, as a length.
    #[arg(long, value_name = "LENGTH")]
    pub(crate) master_netmask: Option<u64>,
    /// Do not say that the cluster changes /etc/hosts.
    #[arg(long)]
    pub(crate) no_etc_hosts: bool,
    /// Do not say that the cluster sets SSH up.
    #[arg(long)]
    pub(crate) no_ssh_init: bool,
    /// 4 or 6.
    #[arg(long, value_name = "VERSION")]
    pub(crate) primary_ip_version: Option<u64>,
    /// How many master candidates there should be.
    #[arg(short = 'C', long, value_name = "N")]
    pub(crate) candidate_pool_size: Option<u64>,
    /// The allocator that is used where none is named.
    #[arg(short = 'I', long, value_name = "NAME")]
    pub(crate) default_iallocator: Option<String>,
    /// Its options: name=value,…
    #[arg(long, value_name = "OPTIONS")]
    pub(crate) default_iallocator_params: Option<String>,
    /// Directories where operating system definitions are looked for, in order; before Ganeti's own.
    #[arg(long, value_name = "DIR,…", value_delimiter = ',')]
    pub(crate) os_search_path: Vec<PathBuf>,
    /// Directories where external allocators are looked for, in order; before Ganeti's own.
    #[arg(long, value_name = "DIR,…", value_delimiter = ',')]
    pub(crate) iallocator_search_path: Vec<PathBuf>,
    /// Overwrite new disks before use.
    #[arg(long)]
    pub(crate) prealloc_wipe_disks: bool,
    /// Tell a shutdown by the guest itself apart from a crash.
    #[arg(long)]
    pub(crate) enabled_user_shutdown: bool,
    /// The Ganeti release whose parameters are known: 3.0 or 3.1.
    #[arg(long, value_name = "RELEASE", default_value = "3.1")]
    pub(crate) compat: Compat,
}

/// The users file that a command works on.
#[derive(Args, Clone, Debug)]
pub(crate) struct UsersFile {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The users; by default the file `users` in the data directory.
    #[arg(long, value_name = "FILE")]
    pub(crate) users_file: Option<PathBuf>,
}

impl UsersFile {
    pub(crate) fn path(&self) -> PathBuf {
        self.users_file.clone().unwrap_or_else(|| self.data.data_dir.join("users"))
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum UserCommand {
    /// Add a user.
    Add {
        #[command(flatten)]
        file: UsersFile,
        name: String,
        /// What the user may do: read, write, or both.
        #[arg(long, value_name = "OPTION,…", value_delimiter = ',', default_value = "write")]
        options: Vec<String>,
        /// Read the password from standard input instead of asking for it.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give a user another password.
    Passwd {
        #[command(flatten)]
        file: UsersFile,
        name: String,
        /// Read the password from standard input instead of asking for it.
        #[arg(long)]
        password_stdin: bool,
    },
    /// List the users.
    List {
        #[command(flatten)]
        file: UsersFile,
    },
    /// Remove a user.
    Remove {
        #[command(flatten)]
        file: UsersFile,
        name: String,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum OsCommand {
    /// Install a bundled operating system: `tiny`, a small Linux made of Debian packages, or `debian`, made by debootstrap.
    Install {
        #[command(flatten)]
        data: DataDir,
        #[arg(value_parser = ["tiny", "debian"])]
        name: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Console {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The instance.
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Screenshot {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// The instance.
    pub(crate) name: String,
    /// Where the picture goes; `-` is the standard output.
    pub(crate) file: PathBuf,
}
