use super::*;
use std::io::Write;
use std::os::unix::fs::FileExt;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

fn file(length: usize) -> (Arc<File>, Vec<u8>) {
    let content: Vec<u8> = (0..length)
        .map(|index| u8::try_from(index * 7 % 251).expect("small"))
        .collect();
    let mut file = tempfile::tempfile().expect("file");
    file.write_all(&content).expect("written");
    (Arc::new(file), content)
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.expect("connects"), server.expect("accepts").0)
}

async fn write(lane: &Lane, stream: &mut TcpStream, slices: &[&[u8]]) -> io::Result<usize> {
    let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    std::future::poll_fn(|cx| lane.poll_write(stream, cx, &slices)).await
}

async fn frames(body: &mut FileBody, way: &Way) -> io::Result<Vec<Bytes>> {
    let mut frames = Vec::new();
    while let Some(frame) = std::future::poll_fn(|cx| way.lead(|| Pin::new(&mut *body).poll_frame(cx))).await {
        frames.push(frame?.into_data().expect("data"));
    }
    Ok(frames)
}

#[tokio::test]
async fn only_the_way_of_the_moment_counts() {
    let (file, content) = file(600_000);
    let lane = Lane::default();
    let body = || FileBody::new(Arc::clone(&file), 10, 500_000);
    let wanted = &content[10..500_010];
    for (way, longest) in [(Way::Chunks, CHUNKS), (Way::Frames, FRAMES)] {
        let got = frames(&mut body(), &way).await.expect("read");
        assert_eq!(got.concat(), wanted);
        assert!(got.iter().all(|bytes| bytes.len() <= longest));
    }
    let got = Way::Lane(lane.clone()).lead(|| http_body_util::BodyExt::collect(body()));
    assert_eq!(got.await.expect("read").to_bytes(), wanted, "polled by nobody");
    assert!(!lane.owes());
    let got = frames(&mut body(), &Way::Lane(lane.clone())).await.expect("noted");
    assert!(got.len() == 1 && got[0].len() == 500_000 && is_placeholder(&got[0]) && lane.owes());
    let panics = || Way::Lane(lane.clone()).lead(|| panic!("on purpose"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
    assert!(matches!(Way::current(), Way::Chunks));
}

#[tokio::test]
async fn a_range_goes_out_in_its_place() {
    let (file, content) = file(3 * RANGE);
    for kernel in [true, false] {
        let lane = Lane::default();
        let (mut client, mut server) = pair().await;
        let slice = lane.enter(&file, 5, 1000).expect("room");
        assert_eq!(
            write(&lane, &mut server, &[b"", b"head", &slice, b"tail"])
                .await
                .expect("sent"),
            4
        );
        let mut slice = slice;
        while !slice.is_empty() {
            let sent = if kernel {
                write(&lane, &mut server, &[&slice, b"tail"]).await.expect("sent")
            } else {
                copy_file(&server, &file, 5, slice.len()).expect("sent")
            };
            let _ = slice.split_to(sent);
        }
        if !kernel {
            lane.ranges().owed.clear();
        }
        assert_eq!(write(&lane, &mut server, &[b"tail"]).await.expect("sent"), 4);
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.expect("read");
        assert_eq!(got, [b"head", &content[5..1005], b"tail"].concat());
    }
}

#[tokio::test]
async fn whatever_else_is_written_is_refused_before_a_byte_of_it_is_sent() {
    let (file, _) = file(3 * RANGE);
    let (mut client, mut server) = pair().await;
    let stray = Lane::default().enter(&file, 0, 100).expect("room");
    let copied = Bytes::from(stray.to_vec());
    let refused = async |slices: &[&[u8]], lane: &Lane, server: &mut TcpStream| {
        write(lane, server, slices).await.expect_err("refused").to_string()
    };
    let lane = Lane::default();
    assert!(
        refused(&[b"head", &stray], &lane, &mut server).await.contains("place"),
        "not owed"
    );
    let first = lane.enter(&file, 0, 100).expect("room");
    let second = lane.enter(&file, 100, 100).expect("room");
    for (slices, what) in [
        (&[&b"head"[..]][..], "nothing follows"),
        (&[b"head", &copied], "copied"),
        (&[b"head", &copied, &second], "the first was copied"),
        (&[b"head", &second, &first], "order"),
        (&[b"head", &first[1..]], "its begin was copied"),
        (&[b"head", &first[..99]], "its end was copied"),
        (&[&first[..0], &second], "left out"),
    ] {
        assert!(refused(slices, &lane, &mut server).await.contains("place"), "{what}");
    }
    drop(server);
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.expect("read");
    assert_eq!(got, b"");
}

#[tokio::test]
async fn a_file_that_is_too_short_is_an_error() {
    let (file, _) = file(1000);
    let (_client, mut server) = pair().await;
    let lane = Lane::default();
    let mut slice = lane.enter(&file, 500, 1000).expect("room");
    let sent = write(&lane, &mut server, &[&slice]).await.expect("what is there");
    assert_eq!(sent, 500);
    let _ = slice.split_to(sent);
    let error = write(&lane, &mut server, &[&slice]).await.expect_err("no more");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let error = frames(&mut FileBody::new(file, 500, 1000), &Way::Chunks)
        .await
        .expect_err("no more");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn ranges_owed_at_one_time_share_nothing() {
    let (file, _) = file(10);
    let lane = Lane::default();
    let slices: Vec<_> = (0..RANGES)
        .map(|_| lane.enter(&file, 0, u64::MAX).expect("room"))
        .collect();
    for (index, slice) in slices.iter().enumerate() {
        assert_eq!(slice.len(), RANGE);
        assert!(
            slices[..index]
                .iter()
                .all(|other| !other.as_ptr_range().contains(&slice.as_ptr()))
        );
    }
    assert!(lane.enter(&file, 0, 1).is_none(), "then it is read");
    assert!(file.read_at(&mut [0; 1], 0).is_ok());
}
