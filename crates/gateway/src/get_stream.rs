//! The stream of all gets from one broker: under load a call for each would cost both sides more than the reading.

use evenkeel_protocol::internal::v1::{
    BrokerGetRequest, GetFrame, GetResponseFrame, TaggedGet, broker_get_response,
};

use crate::tagged_stream::{Exchange, TaggedStream};

/// Gets of single keys.
pub(crate) enum Gets {}

pub(crate) type GetStream = TaggedStream<Gets>;

impl Exchange for Gets {
    type Request = BrokerGetRequest;
    type Frame = GetFrame;
    type Answer = broker_get_response::Result;
    type AnswerFrame = GetResponseFrame;

    fn bytes(get: &BrokerGetRequest) -> usize {
        get.key.len()
    }

    fn frame(requests: impl ExactSizeIterator<Item = (u64, Self::Request)>) -> GetFrame {
        GetFrame { gets: requests.map(|(tag, get)| TaggedGet { tag, get: Some(get) }).collect() }
    }

    fn answers(frame: GetResponseFrame) -> impl Iterator<Item = (u64, Option<Self::Answer>)> {
        frame.responses.into_iter().map(|tagged| (tagged.tag, tagged.response.and_then(|r| r.result)))
    }
}
