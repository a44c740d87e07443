//! What a client can see going wrong: Ganeti's exception classes with their arguments.

use std::fmt;

use serde_json::{Value, json};

use crate::python;

/// Declares the classes once: the enum, their names and the way back.
macro_rules! error_classes {
    ($($(#[doc = $doc:literal])* $Class:ident,)*) => {
        /// The class of a Ganeti exception, as job results and LUXI name it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorClass { $($(#[doc = $doc])* $Class,)* }

        impl ErrorClass {
            pub const ALL: &'static [Self] = &[$(Self::$Class,)*];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$Class => stringify!($Class),)* }
            }

            /// The class of that name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $(stringify!($Class) => Some(Self::$Class),)* _ => None }
            }
        }
    };
}

error_classes! {
    /// The request cannot be carried out as things are; the second argument says of what kind the obstacle is.
    OpPrereqError,
    /// Carrying it out failed.
    OpExecError,
    OpResultError,
    /// A pre hook failed: arguments are `[[node, script, output], …]`.
    HooksAbort,
    HooksFailure,
    LockError,
    HypervisorError,
    BlockDeviceError,
    ConfigurationError,
    ConfigVersionMismatch,
    ReservationError,
    TagError,
    TypeEnforcementError,
    ParameterError,
    ProgrammerError,
    GenericError,
    JobQueueError,
    JobQueueDrainError,
    JobQueueFull,
    JobLost,
    JobCanceled,
    AddressPoolError,
    StorageError,
    CommandError,
    ResolverError,
    UnitParseError,
    FileStoragePathError,
    ResultValidationError,
    QuitGanetiException,
    PidFileLockError,
    HotplugError,
    ConfigVerifyError,
    RemoteError,
    SignatureError,
    OpRetryNotSupportedError,
    DeviceCreationError,
    OpCodeUnknown,
    JobFileCorrupted,
    ParseError,
    X509CertError,
    InotifyError,
    ConfdMagicError,
    ConfdClientError,
    UdpDataSizeError,
    NoCtypesError,
    IPAddressError,
    LuxiError,
    QueryFilterParseError,
    RapiTestResult,
    SshUpdateError,
    /// The request could not be parsed by the master daemon (LUXI's plain-text failure); the door answers 502.
    RequestError,
    /// The master daemon spoke nonsense; the door answers 502.
    ProtocolError,
    /// There is no master daemon to talk to; the door answers 502.
    NoMasterError,
    /// The master daemon did not answer in time; the door answers 504.
    TimeoutError,
    /// The master daemon's socket may not be opened; the door answers 500.
    PermissionError,
}

impl ErrorClass {
    /// Whether clients of LUXI raise an exception of this class when they are sent one. Ganeti: those of `errors.py` (3.0.2)
    /// but for those that are no `GenericError`.
    pub fn is_raised_by_clients(self) -> bool {
        !matches!(
            self,
            Self::QuitGanetiException
                | Self::RequestError
                | Self::ProtocolError
                | Self::NoMasterError
                | Self::TimeoutError
                | Self::PermissionError
        )
    }
}

/// The classification of a prerequisite error (Ganeti's `ECODE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    ResolverError,
    InsufficientResources,
    TempInsufficientResources,
    WrongInput,
    WrongState,
    UnknownEntity,
    AlreadyExists,
    ResourceNotUnique,
    InternalError,
    EnvironmentError,
}

impl ErrorCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ResolverError => "resolver_error",
            Self::InsufficientResources => "insufficient_resources",
            Self::TempInsufficientResources => "temp_insufficient_resources",
            Self::WrongInput => "wrong_input",
            Self::WrongState => "wrong_state",
            Self::UnknownEntity => "unknown_entity",
            Self::AlreadyExists => "already_exists",
            Self::ResourceNotUnique => "resource_not_unique",
            Self::InternalError => "internal_error",
            Self::EnvironmentError => "environment_error",
        }
    }
}

/// An exception as Ganeti's clients see it: a class and its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct GanetiError {
    pub class: ErrorClass,
    pub args: Vec<Value>,
}

/// What most of the project returns.
pub type Result<T, E = GanetiError> = std::result::Result<T, E>;

impl GanetiError {
    pub fn new(class: ErrorClass, text: impl Into<String>) -> Self {
        Self { class, args: vec![Value::String(text.into())] }
    }

    /// `OpPrereqError(text, code)`.
    pub fn prereq(text: impl Into<String>, code: ErrorCode) -> Self {
        Self {
            class: ErrorClass::OpPrereqError,
            args: vec![Value::String(text.into()), json!(code.as_str())],
        }
    }

    /// `OpPrereqError(text)`: the few that Ganeti raises without a code.
    pub fn prereq_plain(text: impl Into<String>) -> Self {
        Self::new(ErrorClass::OpPrereqError, text)
    }

    pub fn wrong_input(text: impl Into<String>) -> Self {
        Self::prereq(text, ErrorCode::WrongInput)
    }

    pub fn wrong_state(text: impl Into<String>) -> Self {
        Self::prereq(text, ErrorCode::WrongState)
    }

    pub fn unknown_entity(text: impl Into<String>) -> Self {
        Self::prereq(text, ErrorCode::UnknownEntity)
    }

    pub fn already_exists(text: impl Into<String>) -> Self {
        Self::prereq(text, ErrorCode::AlreadyExists)
    }

    /// `OpExecError(text)`.
    pub fn exec(text: impl Into<String>) -> Self {
        Self::new(ErrorClass::OpExecError, text)
    }

    /// The form in job results and LUXI answers: `[class, [argument, …]]`.
    pub fn to_value(&self) -> Value {
        json!([self.class.as_str(), self.args])
    }

    /// Reads the wire form back; `None` when it is something else or of a class that is not known.
    pub fn from_value(value: &Value) -> Option<Self> {
        let [class, args] = value.as_array()?.as_slice() else { return None };
        Some(Self { class: ErrorClass::parse(class.as_str()?)?, args: args.as_array()?.clone() })
    }

    /// The classification, when there is one.
    pub fn code(&self) -> Option<&str> {
        (self.class == ErrorClass::OpPrereqError).then(|| self.args.get(1)?.as_str()).flatten()
    }
}

/// Python's `str(exception)`: the one argument, or all of them as a tuple. The remote API shows it as the message.
impl fmt::Display for GanetiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.args.as_slice() {
            [] => Ok(()),
            [one] => f.write_str(&python::str(one)),
            several => {
                let parts: Vec<String> = several.iter().map(python::repr).collect();
                write!(f, "({})", parts.join(", "))
            }
        }
    }
}

impl std::error::Error for GanetiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_print_as_python_prints_them() {
        let error = GanetiError::unknown_entity("Node name x not found");
        assert_eq!(error.to_string(), "('Node name x not found', 'unknown_entity')");
        assert_eq!(
            GanetiError::new(ErrorClass::GenericError, "Queue drained").to_string(),
            "Queue drained"
        );
        assert_eq!(GanetiError::from_value(&error.to_value()), Some(error));
    }
}
