//! Two of Firecracker's Rust clients, as they are published, against Mote:
//! start, configure, pause, resume and stop, by their own means; one of them in jails,
//! with a snapshot, too.
//!
//! `clients MOTE JAILER KERNEL DISK FOLDER`

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::api::VmApi as _;
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::models::{BootSource, CreateSnapshot, Drive, MachineConfiguration, SnapshotType};
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownError, VmShutdownMethod};
use fctools::vm::snapshot::PrepareVmFromSnapshotOptions;
use fctools::vm::{Vm, VmState};
use fctools::vmm::arguments::command_modifier::CommandModifier;
use fctools::vmm::arguments::jailer::JailerArguments;
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments};
use fctools::vmm::executor::VmmExecutor;
use fctools::vmm::executor::jailed::{FlatVirtualPathResolver, JailedVmmExecutor};
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::id::VmmId;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::process::{VmmProcessError, VmmProcessState};
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{MovedResourceType, ResourceType};
use firepilot::builder::drive::DriveBuilder;
use firepilot::builder::executor::FirecrackerExecutorBuilder;
use firepilot::builder::kernel::KernelBuilder;
use firepilot::builder::{Builder as _, Configuration};
use firepilot::machine::Machine;

const SIGKILL: i32 = 9;

type Done = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Done {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [mote, jailer, kernel, disk, folder] = &paths[..] else {
        return Err("usage: clients MOTE JAILER KERNEL DISK FOLDER".into());
    };
    let installation = VmmInstallation::new(mote, jailer, mote);
    for method in [
        InitMethod::ViaApiCalls,
        InitMethod::ViaJsonConfiguration(folder.join("config.json")),
    ] {
        println!("fctools, {method:?}");
        let socket = VmmApiSocket::Enabled(folder.join("fctools.sock"));
        let executor = UnrestrictedVmmExecutor::new(VmmArguments::new(socket));
        let mut resources = resources(VmmOwnershipModel::Shared);
        let data = described(&mut resources, kernel, Some(disk))?;
        let configuration = VmConfiguration::New {
            init_method: method,
            data,
        };
        let vm = Vm::prepare(executor, resources, installation.clone(), configuration).await?;
        stop(controlled(vm).await?).await?;
    }
    println!("fctools, in jails, with a snapshot");
    with_jails(&installation, kernel, folder).await?;
    println!("firepilot");
    with_firepilot(mote, (kernel, disk), folder).await
}

type Spawner = DirectProcessSpawner;

fn resources(ownership: VmmOwnershipModel) -> ResourceSystem<Spawner, TokioRuntime> {
    ResourceSystem::new(DirectProcessSpawner, TokioRuntime, ownership)
}

/// A VM with this kernel, and perhaps a disk.
fn described(
    resources: &mut ResourceSystem<Spawner, TokioRuntime>,
    kernel: &Path,
    disk: Option<&Path>,
) -> Result<VmConfigurationData, Box<dyn Error>> {
    let mut file = |path: &Path| {
        let kind = ResourceType::Moved(MovedResourceType::Copied);
        resources.create_resource(path, kind)
    };
    let mut drives = Vec::new();
    if let Some(disk) = disk {
        drives.push(Drive {
            drive_id: "rootfs".to_owned(),
            is_root_device: true,
            cache_type: None,
            partuuid: None,
            is_read_only: Some(true),
            block: Some(file(disk)?),
            rate_limiter: None,
            io_engine: None,
            socket: None,
        });
    }
    Ok(VmConfigurationData {
        boot_source: BootSource {
            kernel_image: file(kernel)?,
            boot_args: Some("console=ttyS0 reboot=k".to_owned()),
            initrd: None,
        },
        drives,
        pmem_devices: Vec::new(),
        machine_configuration: MachineConfiguration {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: None,
            track_dirty_pages: Some(false),
            huge_pages: None,
        },
        cpu_template: None,
        network_interfaces: Vec::new(),
        balloon_device: None,
        vsock_device: None,
        logger_system: None,
        metrics_system: None,
        memory_hotplug_configuration: None,
        mmds_configuration: None,
        entropy_device: None,
    })
}

/// Starts a VM, pauses and resumes it, and asks about it.
async fn controlled<E: VmmExecutor>(
    mut vm: Vm<E, Spawner, TokioRuntime>,
) -> Result<Vm<E, Spawner, TokioRuntime>, Box<dyn Error>> {
    vm.start(Duration::from_secs(20)).await?;
    println!("  version {}", vm.get_firecracker_version().await?);
    assert_eq!(vm.get_machine_configuration().await?.vcpu_count, 1);
    if vm.get_state() != VmState::Paused {
        vm.pause().await?;
    }
    assert_eq!(vm.get_state(), VmState::Paused);
    assert!(vm.get_info().await?.is_paused);
    vm.resume().await?;
    assert!(!vm.get_info().await?.is_paused);
    vm.flush_metrics().await?;
    Ok(vm)
}

async fn stop<E: VmmExecutor>(mut vm: Vm<E, Spawner, TokioRuntime>) -> Done {
    let stop = VmShutdownAction {
        method: VmShutdownMethod::PauseThenKill,
        timeout: Some(Duration::from_secs(20)),
        graceful: false,
    };
    match vm.shutdown([stop]).await {
        // It kills the process and then asks whether it runs, to wait for its end, which
        // has often come by then.
        Err(VmShutdownError::WaitForExitError(VmmProcessError::IncorrectState(
            VmmProcessState::Crashed(status),
        ))) if status.signal() == Some(SIGKILL) => {}
        other => drop(other?),
    }
    vm.cleanup().await?;
    Ok(())
}

/// What a jail has is what it may open.
#[derive(Debug)]
struct AllowJail;

impl CommandModifier for AllowJail {
    fn apply(&self, _: &mut PathBuf, arguments: &mut Vec<OsString>) {
        arguments.extend(["--allow-path", "/"].map(OsString::from));
    }
}

async fn with_jails(installation: &VmmInstallation, kernel: &Path, folder: &Path) -> Done {
    let executor = |id: &str| {
        let socket = VmmApiSocket::Enabled("/api.sock".into());
        let jail = JailerArguments::new(VmmId::new(id)?).chroot_base_dir(folder.join("jails"));
        let executor =
            JailedVmmExecutor::new(VmmArguments::new(socket), jail, FlatVirtualPathResolver);
        Ok::<_, Box<dyn Error>>(executor.command_modifier(AllowJail))
    };
    let user = VmmOwnershipModel::Downgraded {
        uid: 10_007,
        gid: 10_007,
    };
    let mut resources = resources(user);
    let data = described(&mut resources, kernel, None)?;
    let configuration = VmConfiguration::New {
        init_method: InitMethod::ViaApiCalls,
        data,
    };
    let prepared = Vm::prepare(
        executor("first-jail")?,
        resources,
        installation.clone(),
        configuration,
    );
    let mut vm = controlled(prepared.await?).await?;
    vm.pause().await?;
    let mut file = |path: &str| {
        let resources = vm.get_resource_system_mut();
        resources.create_resource(path, ResourceType::Produced)
    };
    let files = CreateSnapshot {
        snapshot_type: Some(SnapshotType::Full),
        snapshot: file("/state")?,
        mem_file: file("/memory")?,
    };
    let snapshot = vm.create_snapshot(files).await?;
    let options = PrepareVmFromSnapshotOptions {
        executor: executor("second-jail")?,
        process_spawner: DirectProcessSpawner,
        runtime: TokioRuntime,
        moved_resource_type: MovedResourceType::Copied,
        ownership_model: user,
        track_dirty_pages: None,
        resume_vm: Some(true),
        network_overrides: Vec::new(),
    };
    let clone = snapshot.prepare_vm(&mut vm, options).await?;
    let clone = controlled(clone).await?;
    stop(clone).await?;
    vm.resume().await?;
    stop(vm).await
}

async fn with_firepilot(mote: &Path, (kernel, disk): (&Path, &Path), folder: &Path) -> Done {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let built = "the builder refuses";
    let kernel = KernelBuilder::new()
        .with_kernel_image_path(text(kernel))
        .with_boot_args("console=ttyS0 reboot=k".to_owned())
        .try_build()
        .map_err(|e| format!("{built}: {e:?}"))?;
    let drive = DriveBuilder::new()
        .with_drive_id("rootfs".to_owned())
        .with_path_on_host(disk.to_path_buf())
        .as_read_only()
        .as_root_device()
        .try_build()
        .map_err(|e| format!("{built}: {e:?}"))?;
    let executor = FirecrackerExecutorBuilder::new()
        .with_chroot(text(folder))
        .with_exec_binary(mote.to_path_buf())
        .try_build()
        .map_err(|e| format!("{built}: {e:?}"))?;
    let configuration = Configuration::new("pilot".to_owned())
        .with_kernel(kernel)
        .with_executor(executor)
        .with_drive(drive);
    let mut machine = Machine::new();
    let failed = |what: &'static str| move |e| format!("{what}: {e:?}");
    machine
        .create(configuration)
        .await
        .map_err(failed("create"))?;
    machine.start().await.map_err(failed("start"))?;
    machine.pause().await.map_err(failed("pause"))?;
    machine.resume().await.map_err(failed("resume"))?;
    machine.kill().await.map_err(failed("kill"))?;
    Ok(())
}
