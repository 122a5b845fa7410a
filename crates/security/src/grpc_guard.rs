//! The guard in front of gRPC services: one look at each call, none at its messages.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use evenkeel_protocol::ERROR_DOMAIN;
use futures::future::Either;
use http::{HeaderMap, Request, Response, header};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::{Layer, Service};

use crate::caller::Denied;
use crate::guard::{Guard, Need};
use crate::link::Connection;

/// A layer for a tonic server. Without a guard it only hands calls on.
#[derive(Clone)]
pub struct GrpcGuard {
    guard: Option<Arc<Guard>>,
    need: fn(&str) -> Need,
    stays_open: fn(&str) -> bool,
}

/// What a call was let in with, among its extensions when it stays open: meanwhile tokens are revoked and certificates
/// expire.
#[derive(Clone, Debug)]
pub struct Admission {
    guard: Arc<Guard>,
    need: Need,
    authorization: HeaderMap,
    connection: Option<Arc<Connection>>,
}

impl Admission {
    /// Whether a call would be let in now.
    ///
    /// # Errors
    /// When it would not; it has been counted.
    pub fn check(&self) -> Result<(), Denied> {
        self.guard.admit(self.need, &self.authorization, self.connection.as_deref()).map(drop)
    }
}

impl GrpcGuard {
    /// `need` tells what a call takes from its path, `/package.Service/Method`.
    #[must_use]
    pub fn new(guard: Option<Arc<Guard>>, need: fn(&str) -> Need) -> Self {
        Self { guard, need, stays_open: |_| false }
    }

    /// Calls that `stays_open` names, by their path, get an [`Admission`], to check as they go on.
    #[must_use]
    pub fn with_admissions(self, stays_open: fn(&str) -> bool) -> Self {
        Self { stays_open, ..self }
    }
}

impl<S> Layer<S> for GrpcGuard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: GrpcGuard,
}

impl<S, B, R> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let Some(guard) = &self.guard.guard else { return Either::Left(self.inner.call(request)) };
        let need = (self.guard.need)(request.uri().path());
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        match guard.admit(need, request.headers(), connection.as_deref()) {
            Ok(caller) => {
                if (self.guard.stays_open)(request.uri().path()) {
                    let mut authorization = HeaderMap::new();
                    if let Some(given) = request.headers().get(header::AUTHORIZATION) {
                        authorization.insert(header::AUTHORIZATION, given.clone());
                    }
                    let guard = Arc::clone(guard);
                    request.extensions_mut().insert(Admission { guard, need, authorization, connection });
                }
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Left(self.inner.call(request))
            }
            Err(denied) => Either::Right(ready(Ok(Status::from(denied).into_http()))),
        }
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let code = if denied.is_forbidden() { Code::PermissionDenied } else { Code::Unauthenticated };
        let mut metadata = HashMap::new();
        if let Denied::Forbidden { name, has, needs } = &denied {
            metadata = [("caller", name.clone()), ("roles", has.to_string()), ("needs", needs.to_string())]
                .map(|(key, value)| (key.to_owned(), value))
                .into();
        }
        let details = ErrorDetails::with_error_info(denied.reason(), ERROR_DOMAIN, metadata);
        Status::with_error_details(code, denied.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::{Role, Roles};

    #[test]
    fn a_denied_call_tells_programs_why() {
        let status = Status::from(Denied::NoCredentials);
        assert_eq!(status.code(), Code::Unauthenticated);
        assert_eq!(status.get_details_error_info().unwrap().reason, "NO_CREDENTIALS");
        let has = Roles::default().with(Role::Read);
        let status = Status::from(Denied::Forbidden { name: "app".into(), has, needs: Role::Write });
        assert_eq!(status.code(), Code::PermissionDenied);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, "FORBIDDEN"));
        assert_eq!((info.metadata["roles"].as_str(), info.metadata["needs"].as_str()), ("read", "write"));
    }
}
