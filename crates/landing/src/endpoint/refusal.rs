//! Why an upload is refused, in the codes that clients of Azure Blob Storage already understand.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::checksum::Mismatch;
use crate::sas::NotGranted;

pub(crate) const ERROR_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");

/// An answer other than 201.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the path is not one of an object: {0}")]
    Uri(String),
    #[error("the request carries no signature")]
    NoSignature,
    #[error("the signature is wrong, or its time is over")]
    Signature,
    #[error("this grant permits to create and to write objects, nothing else")]
    Permission,
    #[error("this grant is for https only")]
    Protocol,
    #[error("the container does not exist or is closed")]
    NoContainer,
    #[error("the object does not exist")]
    NoObject,
    #[error("the object exists already")]
    Exists,
    #[error("a condition of the request is not met")]
    Condition,
    #[error("the object is of another type")]
    ObjectType,
    #[error("the name cannot be both an object and a folder of objects")]
    NameConflict,
    #[error("{what} may not be larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("an inbox may not hold more than {0} objects")]
    TooManyObjects(usize),
    #[error("there may not be more than {0} blocks")]
    TooManyBlocks(usize),
    #[error("a block list may not name more than {0} blocks")]
    BlockListTooLong(usize),
    #[error("the block id is not base64 of 1 to 64 bytes")]
    BlockId,
    #[error("all block ids of an object have to be of the same length")]
    BlockIdLength,
    #[error("the block list names a block that does not exist")]
    BlockList,
    #[error("the body is not a block list: {0}")]
    Xml(&'static str),
    #[error("the value of {0} is not valid")]
    Header(&'static str),
    #[error("{0} is required")]
    MissingHeader(&'static str),
    #[error("{0} is not supported here")]
    UnsupportedHeader(&'static str),
    #[error("the operation is not supported here: Put Blob, Put Block, Put Block List and Append Block are")]
    UnsupportedOperation,
    #[error("the query is not valid: {0}")]
    Query(&'static str),
    #[error("{0} is required in the query")]
    MissingQuery(&'static str),
    #[error("the bytes do not match the checksum that came with them")]
    Checksum(Mismatch),
    #[error("the object does not end where the request says")]
    AppendPosition,
    #[error("the object would grow beyond what the request allows")]
    AppendMaxSize,
    #[error("the body stood still for too long")]
    Idle,
    #[error("the body ended early")]
    Truncated,
    #[error("too many uploads at once, try again")]
    Busy,
    #[error("the storage failed, try again")]
    Disk(#[source] std::io::Error),
}

impl Refusal {
    pub(crate) fn disk(error: std::io::Error) -> Self {
        Self::Disk(error)
    }

    fn answer(&self) -> (StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::Uri(_) => (S::BAD_REQUEST, "InvalidUri"),
            Self::NoSignature => (S::UNAUTHORIZED, "NoAuthenticationInformation"),
            Self::Signature => (S::FORBIDDEN, "AuthenticationFailed"),
            Self::Permission => (S::FORBIDDEN, "AuthorizationPermissionMismatch"),
            Self::Protocol => (S::FORBIDDEN, "AuthorizationProtocolMismatch"),
            Self::NoContainer => (S::NOT_FOUND, "ContainerNotFound"),
            Self::NoObject => (S::NOT_FOUND, "BlobNotFound"),
            Self::Exists => (S::CONFLICT, "BlobAlreadyExists"),
            Self::Condition => (S::PRECONDITION_FAILED, "ConditionNotMet"),
            Self::ObjectType => (S::CONFLICT, "InvalidBlobType"),
            Self::NameConflict => (S::CONFLICT, "ResourceTypeMismatch"),
            Self::TooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "RequestBodyTooLarge"),
            Self::TooManyObjects(_) => (S::CONFLICT, "InboxObjectLimitReached"),
            Self::TooManyBlocks(_) => (S::CONFLICT, "BlockCountExceedsLimit"),
            Self::BlockListTooLong(_) => (S::BAD_REQUEST, "BlockListTooLong"),
            Self::BlockId => (S::BAD_REQUEST, "InvalidBlockId"),
            Self::BlockIdLength => (S::BAD_REQUEST, "InvalidBlobOrBlock"),
            Self::BlockList => (S::BAD_REQUEST, "InvalidBlockList"),
            Self::Xml(_) => (S::BAD_REQUEST, "InvalidXmlDocument"),
            Self::Header(_) => (S::BAD_REQUEST, "InvalidHeaderValue"),
            Self::MissingHeader(_) => (S::BAD_REQUEST, "MissingRequiredHeader"),
            Self::UnsupportedHeader(_) => (S::BAD_REQUEST, "UnsupportedHeader"),
            Self::UnsupportedOperation => (S::BAD_REQUEST, "UnsupportedQueryParameter"),
            Self::Query(_) => (S::BAD_REQUEST, "InvalidQueryParameterValue"),
            Self::MissingQuery(_) => (S::BAD_REQUEST, "MissingRequiredQueryParameter"),
            Self::Checksum(Mismatch::Md5) => (S::BAD_REQUEST, "Md5Mismatch"),
            Self::Checksum(Mismatch::Crc64) => (S::BAD_REQUEST, "Crc64Mismatch"),
            Self::AppendPosition => (S::PRECONDITION_FAILED, "AppendPositionConditionNotMet"),
            Self::AppendMaxSize => (S::PRECONDITION_FAILED, "MaxBlobSizeConditionNotMet"),
            Self::Idle => (S::REQUEST_TIMEOUT, "OperationTimedOut"),
            Self::Truncated => (S::BAD_REQUEST, "IncompleteBody"),
            Self::Busy => (S::SERVICE_UNAVAILABLE, "ServerBusy"),
            Self::Disk(_) => (S::INTERNAL_SERVER_ERROR, "InternalError"),
        }
    }

    pub(crate) fn code(&self) -> &'static str {
        self.answer().1
    }

    /// The answer, with the code in the header and in the XML body.
    pub(crate) fn into_response(self) -> Response<Body> {
        let (status, code) = self.answer();
        let message = escape(&self.to_string());
        let xml = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
        let mut response = Response::new(Body::from(xml));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        headers.insert(ERROR_CODE, HeaderValue::from_static(code));
        if matches!(self, Self::Busy) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

impl From<NotGranted> for Refusal {
    fn from(why: NotGranted) -> Self {
        match why {
            NotGranted::Unsigned => Self::NoSignature,
            NotGranted::Forged | NotGranted::Expired | NotGranted::NotYet => Self::Signature,
            NotGranted::Permission => Self::Permission,
            NotGranted::Protocol => Self::Protocol,
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
