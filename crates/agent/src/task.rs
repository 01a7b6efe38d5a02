//! An upload from its answer to its end: makes the objects, writes them, says how it stands, and ends at its deadline by
//! itself, because its grant is dead then. Bundles of one device take turns.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use muster_wire::method::answer::{Operation, TaskStatus, TaskStatusAnswer};
use muster_wire::method::filter::{Mode, Plan};
use muster_wire::method::object_name::{self, BUNDLE_PROPERTIES};
use muster_wire::method::render::Origin;
use muster_wire::method::{Method, MethodError, UploadModuleLogsRequest, UploadSupportBundleRequest, upstream};
use muster_wire::presence::ReportedObject;
use time::OffsetDateTime;
use tokio::sync::SemaphorePermit;

use crate::bundle::{BundleError, Window};
use crate::device::{Device, Source};
use crate::fault::Fault;
use crate::logs::{self, Form, LogError};
use crate::methods::{self, Selected};
use crate::modules::{LogLine, Module, SourceError};
use crate::table::Task;
use crate::upload::content::{Content, Spool};
use crate::upload::grant::Grant;
use crate::upload::{Object, StopAfter, UploadError};

/// Longest message of an upload that failed, in characters; a report has room for it and for what was uploaded.
const MAX_MESSAGE_CHARS: usize = 4096;

/// Why an upload did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    #[error(transparent)]
    Method(#[from] MethodError),
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error("module {module}: {source}")]
    Log { module: String, source: LogError },
    #[error("the bundle cannot be made: {0}")]
    Bundle(#[from] BundleError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the request's deadline passed; its grant is void")]
    Deadline,
    /// Silent from here on: nothing is recorded, nothing is said.
    #[error("silenced by a scripted fault")]
    Silenced,
}

/// Starts the work on an upload.
pub(crate) fn launch(device: &Arc<Device>, task: Task) {
    let device = Arc::clone(device);
    let stop = device.shared().stop.clone();
    device.shared().work.clone().spawn(async move {
        tokio::select! {
            // Left open in the table: the next process takes it up again.
            () = stop.cancelled() => {}
            () = run(&device, task) => {}
        }
    });
}

async fn run(device: &Arc<Device>, task: Task) {
    device.report(&task);
    let left = u64::try_from(task.deadline_unix - OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
    let outcome = match tokio::time::timeout(Duration::from_secs(left), in_turn(device, &task)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(TaskError::Deadline),
    };
    if let Err(TaskError::Silenced) = outcome {
        // The table still forgets it at its deadline, so that the device is not held to be busy for ever.
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(task.deadline_unix - OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0),
        ))
        .await;
        let _ = device.table().update(task.id, |task| end(task, TaskStatus::Failed, String::new())).await;
        return;
    }
    let operation = if task.method == Method::UploadModuleLogs { Operation::Logs } else { Operation::SupportBundle };
    let (status, message) = match &outcome {
        Ok(()) => (TaskStatus::Completed, String::new()),
        Err(error) => (TaskStatus::Failed, TaskStatusAnswer::failed(operation, &error.to_string(), "").message),
    };
    device.counters().upload_ended(outcome.is_ok());
    if let Err(error) = &outcome {
        tracing::info!(device.id = %device.id(), task.id = %task.id, "an upload failed: {error}");
    }
    if device.has(Fault::Forgetful) && !device.fault_done.swap(true, Ordering::Relaxed) {
        // A restart: the upload is forgotten, and nobody hears how it ended.
        device.table().forget_tasks();
        device.cut().ask(Duration::from_millis(100));
        return;
    }
    match device.table().update(task.id, |task| end(task, status, message)).await {
        Ok(Some(task)) => device.report(&task),
        Ok(None) => {}
        Err(error) => tracing::error!(device.id = %device.id(), task.id = %task.id, %error, "the end of an upload could not be recorded"),
    }
}

fn end(task: &mut Task, status: TaskStatus, message: String) {
    task.status = status;
    task.message = message.chars().take(MAX_MESSAGE_CHARS).collect();
    task.ended_unix = Some(OffsetDateTime::now_utc().unix_timestamp());
}

async fn in_turn(device: &Arc<Device>, task: &Task) -> Result<(), TaskError> {
    let is_bundle = task.method == Method::UploadSupportBundle;
    let _turn = if is_bundle { Some(device.bundle_turn.lock().await) } else { None };
    device.counters().upload_started();
    if !is_bundle {
        return upload_logs(device, task).await;
    }
    let _running = Running::new(device);
    upload_bundle(device, task).await
}

/// Counts bundle uploads of one device, however they end.
struct Running<'a>(&'a Device);

impl<'a> Running<'a> {
    fn new(device: &'a Device) -> Self {
        let now = device.bundle_uploads.fetch_add(1, Ordering::Relaxed) + 1;
        device.counters().bundle_uploads_at_once(now);
        Self(device)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.bundle_uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

fn payload(task: &Task) -> Result<&[u8], TaskError> {
    Ok(task.request.as_deref().ok_or_else(|| MethodError::failed("the request of this upload is not known any more"))?.as_bytes())
}

fn grant(device: &Device, sas_url: &str) -> Result<Grant, TaskError> {
    let url = upstream::rewrite(sas_url, device.shared().gateway.as_deref())?;
    Ok(Grant::parse(&url).map_err(UploadError::from)?)
}

/// The second the objects of this task are named after.
fn named_at(task: &Task) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(task.asked_unix).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

async fn record(device: &Device, task: &Task, object: ReportedObject) {
    device.counters().uploaded(object.size);
    let recorded = device
        .table()
        .update(task.id, |task| {
            // A resumed upload writes the same object again.
            task.objects.retain(|known| known.name != object.name);
            task.objects.push(object);
            task.bytes = task.objects.iter().map(|known| known.size).sum();
        })
        .await;
    if let Err(error) = recorded {
        tracing::error!(device.id = %device.id(), task.id = %task.id, %error, "an uploaded object could not be recorded");
    }
}

async fn upload_logs(device: &Arc<Device>, task: &Task) -> Result<(), TaskError> {
    let request = UploadModuleLogsRequest::parse(payload(task)?)?;
    if device.has(Fault::Liar) {
        return Ok(());
    }
    let grant = grant(device, request.sas_url.expose())?;
    let (content_type, encoding) = (request.content_type, request.encoding);
    let properties = object_name::log_properties(content_type, encoding);
    let mut first_error = None;
    let mut permit = Some(may_upload(device).await);
    for Selected { module, item } in methods::select(device, &request.items).await? {
        // A window counts back from the moment of the request, however late the upload comes to it.
        let plan = Plan::new(&request.items[item].filter, Mode::upload(content_type), task.asked_unix, true)?;
        let spool = Spool::new(&device.shared().temp, device.shared().max_object_bytes);
        let written = device
            .with_lines(&module, plan.runtime(), move |device, name, lines| {
                let origin = Origin { iothub: &device.shared().hub, device: device.id().as_str(), module: name };
                logs::for_upload(&plan, &Form { origin, content_type, encoding }, lines, spool)
            })
            .await;
        let name =
            object_name::log_object(&device.shared().hub, device.id().as_str(), &module.name, named_at(task), content_type, encoding);
        let outcome = match written {
            Ok(spool) => put(device, task, &grant, &Object { name: &name, properties }, spool.finish()?, &mut permit).await,
            Err(source) => Err(TaskError::Log { module: module.name, source }),
        };
        // One module that cannot be read does not cost the others; a dead grant costs them all.
        match outcome {
            Ok(()) => {}
            Err(error @ (TaskError::Log { .. } | TaskError::Io(_))) => first_error = first_error.or(Some(error)),
            Err(error) => return Err(error),
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn upload_bundle(device: &Arc<Device>, task: &Task) -> Result<(), TaskError> {
    let request = UploadSupportBundleRequest::parse(payload(task)?)?;
    if device.has(Fault::Liar) {
        return Ok(());
    }
    if device.has(Fault::Slow) {
        tokio::time::sleep(device.shared().figures.slow_delay).await;
    }
    let grant = grant(device, request.sas_url.expose())?;
    let window =
        Window { since: request.since, until: request.until, edge_runtime_only: request.edge_runtime_only, asked_unix: task.asked_unix };
    let mut permit = Some(may_upload(device).await);
    let content = match &device.shared().source {
        Source::Real(machine) => machine.bundle(device, window).await?,
        Source::Synthetic(synthetic) => {
            let spool = Spool::new(&device.shared().temp, device.shared().max_object_bytes);
            synthetic.bundle(device, &window, spool)?.finish()?
        }
    };
    let content = scripted_content(device.fault(), content).await?;
    let name = object_name::bundle_object(&device.shared().hub, device.id().as_str(), named_at(task));
    put(device, task, &grant, &Object { name: &name, properties: BUNDLE_PROPERTIES }, content, &mut permit).await
}

type Permit<'a> = Option<SemaphorePermit<'a>>;

async fn may_upload(device: &Device) -> SemaphorePermit<'_> {
    device.shared().uploads.acquire().await.expect("the semaphore is never closed")
}

/// What a faulty device uploads in place of its bundle.
async fn scripted_content(fault: Option<Fault>, content: Content) -> std::io::Result<Content> {
    Ok(match fault {
        Some(Fault::TruncatedZip) => {
            let half = usize::try_from(content.size() / 2).unwrap_or(usize::MAX);
            Content::Memory(content.read(0, half).await?)
        }
        Some(Fault::ErrorDocument) => Content::Memory(Bytes::from_static(br#"{"message":"invalid parameter: since"}"#)),
        Some(Fault::EmptyZip) => Content::Memory(Bytes::new()),
        _ => content,
    })
}

async fn put<'a>(
    device: &'a Device,
    task: &Task,
    grant: &Grant,
    object: &Object<'_>,
    content: Content,
    permit: &mut Permit<'a>,
) -> Result<(), TaskError> {
    let uploader = &device.shared().uploader;
    // Blocks so small that even a small bundle has a middle.
    let part =
        StopAfter { blocks: 2, block_bytes: usize::try_from(content.size() / 4 + 1).unwrap_or(usize::MAX).min(crate::upload::BLOCK_BYTES) };
    match device.fault() {
        Some(Fault::HalfUpload) => {
            uploader.put_part(grant, object, &content, part).await?;
            device.fault_done.store(true, Ordering::Relaxed);
            return Err(TaskError::Silenced);
        }
        Some(Fault::DisconnectMidUpload) if !device.fault_done.swap(true, Ordering::Relaxed) => {
            uploader.put_part(grant, object, &content, part).await?;
            device.cut().ask(device.shared().figures.away);
            // Away: others may upload meanwhile.
            permit.take();
            tokio::time::sleep(device.shared().figures.away).await;
            *permit = Some(may_upload(device).await);
        }
        _ => {}
    }
    let written = uploader.put(grant, object, &content).await?;
    record(device, task, written).await;
    Ok(())
}

impl Device {
    /// Gives the lines of a module to `use_them`: on a blocking thread where they come from a real source, at once where they
    /// are made up.
    pub(crate) async fn with_lines<T: Send + 'static>(
        self: &Arc<Self>,
        module: &Module,
        window: crate::modules::Window,
        use_them: impl FnOnce(&Device, &str, &mut dyn Iterator<Item = Result<Vec<LogLine>, SourceError>>) -> Result<T, LogError>
        + Send
        + 'static,
    ) -> Result<T, LogError> {
        match &self.shared().source {
            Source::Real(machine) => {
                let mut lines = machine.modules.read(module, window);
                let (device, name) = (Arc::clone(self), module.name.clone());
                tokio::task::spawn_blocking(move || use_them(&device, &name, &mut std::iter::from_fn(|| lines.blocking_recv())))
                    .await
                    .map_err(|error| LogError::Write(std::io::Error::other(error)))?
            }
            Source::Synthetic(synthetic) => use_them(self, &module.name, &mut std::iter::once(Ok(synthetic.lines(self, &module.name)))),
        }
    }
}
