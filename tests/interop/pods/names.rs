//! The name server of a cluster, which knows the control plane and a name outside, and nothing of the mesh.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::network::Families;
use meshctl::net::{BindOptions, bind};

/// Answers until it is dropped.
pub(super) struct Server {
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(at: &[IpAddr], families: Families) -> Self {
        let mut tasks = JoinSet::new();
        for ip in at {
            let at = SocketAddr::new(*ip, 53);
            let udp = Arc::new(UdpSocket::bind(at).await.unwrap());
            tasks.spawn(async move {
                let mut question = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut question).await {
                    let answer = answer(&question[..length], families);
                    udp.send_to(&answer, from).await.unwrap();
                }
            });
            let tcp = bind(at, BindOptions::default()).unwrap();
            tasks.spawn(async move {
                while let Ok((mut stream, _)) = tcp.accept().await {
                    let Ok(length) = stream.read_u16().await else {
                        continue;
                    };
                    let mut question = vec![0; length.into()];
                    if stream.read_exact(&mut question).await.is_err() {
                        continue;
                    }
                    let answer = answer(&question, families);
                    let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    let framed = [&length[..], &answer].concat();
                    drop(stream.write_all(&framed).await);
                }
            });
        }
        Self { _tasks: tasks }
    }
}

fn answer(question: &[u8], families: Families) -> Vec<u8> {
    let asked = Message::from_vec(question).unwrap();
    let query = asked.queries.first().unwrap();
    let name = query.name().to_string().to_lowercase();
    let addresses = match name.trim_end_matches('.') {
        "meshctl.meshctl-system.svc.cluster.local" => families.system(1)[..1].to_vec(),
        "elsewhere.example" => families.outside(7),
        _ => Vec::new(),
    };
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = if addresses.is_empty() {
        ResponseCode::NXDomain
    } else {
        ResponseCode::NoError
    };
    reply.add_query(query.clone());
    for address in addresses {
        let data = match (address, query.query_type()) {
            (IpAddr::V4(v4), RecordType::A) => RData::A(A(v4)),
            (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(v6)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(query.name().clone(), 5, data));
    }
    reply.to_vec().unwrap()
}
