//! Compiles the ONNX format's own schema (`proto/onnx-ml.proto`, Apache-2.0, from the ONNX project) without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/onnx-ml.proto");
    let files = protox::compile(["proto/onnx-ml.proto"], ["proto"])?;
    prost_build::Config::new().bytes([".onnx.TensorProto.raw_data"]).compile_fds(files)?;
    Ok(())
}
