//! The direct methods, answered as IoT Edge answers them. What differs on purpose, because it cannot break a caller: `tail`
//! holds for text uploads too, `until` of a bundle is honoured, and nothing is uploaded that would be an error document.

use std::sync::Arc;

use bytes::Bytes;
use muster_wire::method::answer::{ModuleLogs, NOTHING, TaskStatus, TaskStatusAnswer};
use muster_wire::method::filter::{Mode, Plan};
use muster_wire::method::render::Origin;
use muster_wire::method::select::Selection;
use muster_wire::method::size::SizeCheck;
use muster_wire::method::{
    GetModuleLogsRequest, GetTaskStatusRequest, LogItem, Method, MethodError, UploadModuleLogsRequest, UploadSupportBundleRequest, upstream,
};
use uuid::Uuid;

use crate::device::{Device, Source};
use crate::fault::Fault;
use crate::logs::{self, Form};
use crate::modules::Module;
use crate::session::envelope::Request;
use crate::table::Task;

/// What a method came to: the answer, and the work it announces.
#[derive(Debug)]
pub(crate) struct Reply {
    pub payload: Bytes,
    pub task: Option<Task>,
}

/// A module of either kind of device, with the index of the item that speaks for it.
#[derive(Debug)]
pub(crate) struct Selected {
    pub module: Module,
    pub item: usize,
}

/// Carries a request out, as far as the answer goes.
pub(crate) async fn carry_out(device: &Arc<Device>, request: &Request) -> Result<Reply, MethodError> {
    scripted_refusal(device)?;
    match Method::find(&request.method) {
        Some(Method::GetModuleLogs) => get_module_logs(device, &request.payload).await,
        Some(Method::UploadModuleLogs) => {
            let parsed = UploadModuleLogsRequest::parse(&request.payload)?;
            // Bad patterns, and modules that cannot be listed, are found before there is a task.
            select(device, &parsed.items).await?;
            upload(device, request, Method::UploadModuleLogs, parsed.sas_url.expose())
        }
        Some(Method::UploadSupportBundle) => {
            let parsed = UploadSupportBundleRequest::parse(&request.payload)?;
            upload(device, request, Method::UploadSupportBundle, parsed.sas_url.expose())
        }
        Some(Method::GetTaskStatus) => Ok(Reply { payload: task_status(device, &request.payload)?, task: None }),
        Some(Method::Ping) => Ok(Reply { payload: Bytes::from_static(NOTHING), task: None }),
        None => Err(MethodError::unknown_method(&request.method)),
    }
}

/// What became of an upload, as this device remembers it.
fn task_status(device: &Device, payload: &[u8]) -> Result<Bytes, MethodError> {
    let id = GetTaskStatusRequest::parse(payload)?.correlation_id;
    let answer = match device.table().task(&id) {
        Some(task) => TaskStatusAnswer { status: task.status, message: task.message, correlation_id: id },
        None => TaskStatusAnswer::unknown(id),
    };
    Ok(answer.to_json().into())
}

fn scripted_refusal(device: &Device) -> Result<(), MethodError> {
    match device.fault() {
        Some(Fault::Refuser) => Err(MethodError::bad_request("this device refuses everything (scripted)")),
        Some(Fault::Crasher) => Err(MethodError::failed("this device fails at everything (scripted)")),
        _ => Ok(()),
    }
}

fn upload(device: &Arc<Device>, request: &Request, method: Method, sas_url: &str) -> Result<Reply, MethodError> {
    upstream::rewrite(sas_url, device.shared().gateway.as_deref())?;
    if device.has(Fault::WrongCorrelation) {
        let payload = TaskStatusAnswer::running(Uuid::new_v4().to_string()).to_json().into();
        return Ok(Reply { payload, task: None });
    }
    if !device.table().has_room(device.clock().unix_timestamp()) {
        return Err(MethodError::failed("the device works on too many uploads already; try again later"));
    }
    let task = Task {
        id: Uuid::new_v4(),
        attempt: request.attempt,
        method,
        request: Some(String::from_utf8_lossy(&request.payload).into_owned()),
        deadline_unix: request.deadline_unix,
        asked_unix: device.clock().unix_timestamp(),
        status: TaskStatus::Running,
        message: String::new(),
        bytes: 0,
        objects: Vec::new(),
        ended_unix: None,
    };
    Ok(Reply { payload: TaskStatusAnswer::running(task.id.to_string()).to_json().into(), task: Some(task) })
}

/// The modules a request's items choose.
pub(crate) async fn select(device: &Device, items: &[LogItem]) -> Result<Vec<Selected>, MethodError> {
    let modules = match &device.shared().source {
        Source::Real(machine) => machine.modules.list().await.map_err(|error| MethodError::failed(error.to_string()))?,
        Source::Synthetic(synthetic) => synthetic.modules(),
    };
    let selection = Selection::new(items)?;
    Ok(modules.into_iter().filter_map(|module| selection.item_for(&module.name).map(|item| Selected { module, item })).collect())
}

async fn get_module_logs(device: &Arc<Device>, payload: &[u8]) -> Result<Reply, MethodError> {
    let request = GetModuleLogsRequest::parse(payload)?;
    let mode = Mode::get(request.content_type);
    let now = device.clock().unix_timestamp();
    let selected = select(device, &request.items).await?;
    let mut sum = SizeCheck::new(request.encoding);
    let mut all = Vec::new();
    for Selected { module, item } in selected {
        let plan = Plan::new(&request.items[item].filter, mode, now, true)?;
        let (content_type, encoding) = (request.content_type, request.encoding);
        let payload;
        (payload, sum) = device
            .with_lines(&module, plan.runtime(), move |device, name, lines| {
                let origin = Origin { iothub: &device.shared().hub, device: device.id().as_str(), module: name };
                let written = logs::for_answer(&plan, &Form { origin, content_type, encoding }, lines, &mut sum);
                written.map(|payload| (payload, sum))
            })
            .await?;
        all.push(ModuleLogs { id: module.name, payload });
    }
    Ok(Reply { payload: ModuleLogs::to_json(&all).into(), task: None })
}
