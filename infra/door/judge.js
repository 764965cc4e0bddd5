// The server answers 500 to JSON that it can't read, as it does when it fails itself; only its words tell which it was.
// Both get here after every replica said 500.

const HEADERS = ['Content-Type', 'Inference-Header-Content-Length'];

async function answer(r) {
    const reply = await r.subrequest('/judge' + r.uri, {method: r.method});
    const unreadable = reply.status == 500 && /^\{"error":"(Unable|failed) to parse /.test(reply.responseText);
    HEADERS.filter((name) => reply.headersOut[name]).forEach((name) => {
        r.headersOut[name] = reply.headersOut[name];
    });
    r.return(unreadable ? 400 : reply.status, reply.responseBuffer);
}

// Over gRPC an error is a header, and bytes that are no message are called an error of the server's own.
function status(r) {
    if (r.headersOut['grpc-message'] == 'Unable to parse request') {
        r.headersOut['grpc-status'] = '3';
    }
}

export default {answer, status};
