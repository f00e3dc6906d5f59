//! A look at the endpoint that changes nothing: resolve the name, connect, shake hands. No request is sent, because
//! the only request that a webhook understands is a delivery.

use rowstream_api::ConnectorError;
use rowstream_http::Connector;

use crate::{config::Plan, error};

/// Answers whether the endpoint can be reached.
pub(crate) async fn check(plan: &Plan) -> Result<(), ConnectorError> {
    let connector = Connector::new(plan.target.clone(), plan.timeout, &plan.trust).map_err(error::setup)?;
    match connector.connect().await {
        Ok(_connection) => Ok(()),
        Err(failure) => Err(error::unreachable(connector.target(), failure)),
    }
}
