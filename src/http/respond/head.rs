//! [`RequestHead`]: what a responder sees of a request.

use http::{HeaderMap, Method, Request, Uri, Version};

/// The head of a request that is turned away: all that a [`Respond`](crate::Respond) sees of
/// it, whatever its body is.
///
/// For a test of one's own responder it is made `From` a reference to a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// The request's method.
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// The request's URI, as the layer sees it.
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// The version of HTTP that the request came with.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The request's headers.
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
        }
    }
}
