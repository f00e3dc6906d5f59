//! Kafka's errors in the log's words.

use std::io;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::topic_log::LogError;

/// What a failed call means: what a person must change is [`LogError::Refused`]; everything else may heal.
pub(super) fn log_error(attempt: impl Into<String>, error: &KafkaError) -> LogError {
    let attempt = attempt.into();
    match error.rdkafka_error_code().and_then(remedy) {
        Some(remedy) => LogError::Refused(format!("{attempt}: {error}; {remedy}")),
        None => LogError::Io { attempt, source: io::Error::other(error.to_string()) },
    }
}

const TLS_REMEDY: &str = "check `topic_log.tls`: `ca_file` must hold the authority of the brokers' certificate, which must have their name; and where they ask for one, `cert_file` and `key_file` a certificate of ours";

/// No broker lets us in: what librdkafka said of the last attempt, and whether that is for a person to mend.
pub(super) fn unreachable(attempt: String, why: Option<(RDKafkaErrorCode, String)>) -> LogError {
    let Some((code, reason)) = why else { return io_error(attempt, "no broker answers") };
    // Since TLS 1.3 a broker refuses our certificate after the handshake, and librdkafka calls that a failure to receive.
    let refused_by_tls = reason.contains("SSL alert");
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of two hundred codes")]
    let remedy = match code {
        RDKafkaErrorCode::Authentication => {
            "check `topic_log.sasl`: mechanism, user and password, or token, are not what the brokers expect"
        }
        RDKafkaErrorCode::SSL => TLS_REMEDY,
        RDKafkaErrorCode::BrokerTransportFailure if refused_by_tls => TLS_REMEDY,
        // Names may come to be known, as those of a cluster that is being set up.
        RDKafkaErrorCode::Resolve => {
            return io_error(attempt, format!("{reason}; check the names in `topic_log.bootstrap_servers`"));
        }
        _ => return io_error(attempt, reason),
    };
    LogError::Refused(format!("{attempt}: {reason}; {remedy}"))
}

/// As [`log_error`], from a code alone.
pub(super) fn code_error(attempt: impl Into<String>, code: RDKafkaErrorCode) -> LogError {
    let attempt = attempt.into();
    match remedy(code) {
        Some(remedy) => LogError::Refused(format!("{attempt}: {code}; {remedy}")),
        None => LogError::Io { attempt, source: io::Error::other(code.to_string()) },
    }
}

/// Something that may heal, in our words.
pub(super) fn io_error(attempt: impl Into<String>, why: impl Into<String>) -> LogError {
    LogError::Io { attempt: attempt.into(), source: io::Error::other(why.into()) }
}

/// What to do about a code that no amount of waiting mends.
fn remedy(code: RDKafkaErrorCode) -> Option<&'static str> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum of two hundred codes")]
    match code {
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
            Some("the worker's principal needs the ACLs Write and Describe on the TransactionalId")
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            Some("the worker's principal needs the ACLs Read, Write, Describe and Create on the topic")
        }
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            Some("the worker's principal needs the ACLs Read and Describe on the group")
        }
        RDKafkaErrorCode::ClusterAuthorizationFailed => {
            Some("the worker's principal needs the ACLs Create and IdempotentWrite on the cluster")
        }
        RDKafkaErrorCode::MessageSizeTooLarge => Some(
            "raise the topic's max.message.bytes to at least `topic_log.properties: { message.max.bytes: … }`",
        ),
        RDKafkaErrorCode::InvalidTransactionTimeout => Some(
            "lower `topic_log.transaction_timeout` to the brokers' transaction.max.timeout.ms, or raise that",
        ),
        RDKafkaErrorCode::InvalidTopic => {
            Some("a topic's name is 1 to 249 letters, digits, `.`, `_` and `-`")
        }
        RDKafkaErrorCode::InvalidReplicationFactor => {
            Some("there are fewer brokers than `topic_log.topics.replication_factor`")
        }
        RDKafkaErrorCode::InvalidConfig | RDKafkaErrorCode::PolicyViolation => {
            Some("change `topic_log.topics`, or make the topic by hand")
        }
        RDKafkaErrorCode::InvalidRecord => Some(
            "a compacted topic takes no record without a key: give the table a key or the topic another cleanup.policy",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rowstream_api::Chain;

    use super::*;

    #[test]
    fn what_needs_a_person_names_the_remedy_and_the_rest_may_heal() {
        let refused = code_error("write", RDKafkaErrorCode::TransactionalIdAuthorizationFailed);
        assert!(
            matches!(&refused, LogError::Refused(text) if text.contains("Write and Describe")),
            "{refused}"
        );
        assert!(matches!(code_error("write", RDKafkaErrorCode::AllBrokersDown), LogError::Io { .. }));
    }

    #[test]
    fn a_wrong_password_is_for_a_person_and_a_broker_that_is_away_is_not() {
        let told = |code| unreachable("find Kafka".to_owned(), Some((code, "why".to_owned())));
        let wrong = told(RDKafkaErrorCode::Authentication);
        assert!(matches!(&wrong, LogError::Refused(text) if text.contains("`topic_log.sasl`")), "{wrong}");
        assert!(matches!(told(RDKafkaErrorCode::BrokerTransportFailure), LogError::Io { .. }));
        let unknown = told(RDKafkaErrorCode::Resolve);
        assert!(matches!(&unknown, LogError::Io { .. }), "{unknown}");
        assert!(Chain(&unknown).to_string().contains("`topic_log.bootstrap_servers`"), "{unknown}");
        assert!(matches!(unreachable("find Kafka".to_owned(), None), LogError::Io { .. }));
    }
}
