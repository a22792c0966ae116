//! Two of Firecracker's Rust clients, as they are published, against Mote:
//! start, configure, pause, resume and stop, by their own means.
//!
//! `clients MOTE KERNEL DISK FOLDER`

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::api::VmApi as _;
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::models::{BootSource, Drive, MachineConfiguration};
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownMethod};
use fctools::vm::{Vm, VmState};
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments};
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{MovedResourceType, ResourceType};
use firepilot::builder::drive::DriveBuilder;
use firepilot::builder::executor::FirecrackerExecutorBuilder;
use firepilot::builder::kernel::KernelBuilder;
use firepilot::builder::{Builder as _, Configuration};
use firepilot::machine::Machine;

type Done = Result<(), Box<dyn Error>>;

#[tokio::main]
async fn main() -> Done {
    let paths: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [mote, kernel, disk, folder] = &paths[..] else {
        return Err("usage: clients MOTE KERNEL DISK FOLDER".into());
    };
    for method in [
        InitMethod::ViaApiCalls,
        InitMethod::ViaJsonConfiguration(folder.join("config.json")),
    ] {
        println!("fctools, {method:?}");
        with_fctools(method, mote, (kernel, disk), folder).await?;
    }
    println!("firepilot");
    with_firepilot(mote, (kernel, disk), folder).await
}

async fn with_fctools(
    init_method: InitMethod,
    mote: &Path,
    (kernel, disk): (&Path, &Path),
    folder: &Path,
) -> Done {
    let mut resources = ResourceSystem::new(
        DirectProcessSpawner,
        TokioRuntime,
        VmmOwnershipModel::Shared,
    );
    let mut file = |path: &Path| {
        let kind = ResourceType::Moved(MovedResourceType::Copied);
        resources.create_resource(path, kind)
    };
    let data = VmConfigurationData {
        boot_source: BootSource {
            kernel_image: file(kernel)?,
            boot_args: Some("console=ttyS0 reboot=k".to_owned()),
            initrd: None,
        },
        drives: vec![Drive {
            drive_id: "rootfs".to_owned(),
            is_root_device: true,
            cache_type: None,
            partuuid: None,
            is_read_only: Some(true),
            block: Some(file(disk)?),
            rate_limiter: None,
            io_engine: None,
            socket: None,
        }],
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
    };
    let socket = folder.join("fctools.sock");
    let arguments = VmmArguments::new(VmmApiSocket::Enabled(socket));
    let executor = UnrestrictedVmmExecutor::new(arguments);
    let installation = VmmInstallation::new(mote, mote, mote);
    let configuration = VmConfiguration::New { init_method, data };
    let mut vm = Vm::prepare(executor, resources, installation, configuration).await?;
    vm.start(Duration::from_secs(20)).await?;
    println!("  version {}", vm.get_firecracker_version().await?);
    assert_eq!(vm.get_machine_configuration().await?.vcpu_count, 1);
    vm.pause().await?;
    assert_eq!(vm.get_state(), VmState::Paused);
    assert!(vm.get_info().await?.is_paused);
    vm.resume().await?;
    assert!(!vm.get_info().await?.is_paused);
    vm.flush_metrics().await?;
    let stop = VmShutdownAction {
        method: VmShutdownMethod::PauseThenKill,
        timeout: Some(Duration::from_secs(20)),
        graceful: false,
    };
    vm.shutdown([stop]).await?;
    vm.cleanup().await?;
    Ok(())
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
